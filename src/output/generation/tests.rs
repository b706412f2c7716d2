use std::time::Duration;

use tempfile::TempDir;

use super::*;

struct Place {
    directory: TempDir,
    config: Config,
    now: SystemTime,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = Config::new(directory.path().to_owned());
        Self { directory, config, now: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000) }
    }

    /// Each file is `name=content`; names that hold `key` are secret.
    fn write(&mut self, files: &[&str]) -> Result<Written, WriteError> {
        self.now += Duration::from_secs(1);
        let files: Vec<_> = files
            .iter()
            .map(|file| {
                let (name, content) = file.split_once('=').unwrap();
                let mode = if name.contains("key") { self.config.key_mode } else { self.config.cert_mode };
                File { name: name.to_owned(), mode, content: Zeroizing::new(content.as_bytes().to_vec()) }
            })
            .collect();
        write(&self.config, &files, self.now)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Everything in the directory, sorted, generations by what they are.
    fn listing(&self) -> Vec<String> {
        let names = fs::read_dir(self.directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        names.iter_mut().filter(|name| is_generation(name)).for_each(|name| *name = "..generation".to_owned());
        names.sort();
        names
    }

    fn mode(&self, name: &str) -> u32 {
        fs::metadata(self.at(name)).unwrap().mode() & 0o7777
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.at(name)).unwrap()
    }
}

#[test]
fn a_generation_replaces_the_one_before_as_a_whole() {
    let mut place = Place::new();
    assert!(matches!(place.write(&["a=1", "key=2"]), Ok(Written::Replaced(_))));
    assert_eq!(place.listing(), ["..data", "..generation", "a", "key"]);
    assert_eq!((place.read("a"), place.read("key")), ("1".to_owned(), "2".to_owned()));
    assert_eq!((place.mode("a"), place.mode("key"), place.mode("..data")), (0o644, 0o600, 0o755));

    // Whoever has opened the generation keeps it whole.
    let before = fs::read_link(place.at("..data")).unwrap();
    let open = fs::File::open(place.at("..data/key")).unwrap();
    let Ok(Written::Replaced(generation)) = place.write(&["a=3", "key=4"]) else { panic!("not replaced") };
    assert_eq!(fs::read_link(place.at("..data")).unwrap(), Path::new(&format!("..{generation}")));
    assert!(!place.at("").join(before).exists());
    assert_eq!(io::read_to_string(open).unwrap(), "2");
    assert_eq!((place.read("a"), place.read("key")), ("3".to_owned(), "4".to_owned()));
}

#[test]
fn equal_content_is_not_written_again_and_damage_is_repaired() {
    let mut place = Place::new();
    place.write(&["a=1", "key=2"]).unwrap();
    let before = fs::read_link(place.at("..data")).unwrap();
    assert_eq!(place.write(&["a=1", "key=2"]).unwrap(), Written::Unchanged);
    fs::remove_file(place.at("a")).unwrap();
    assert_eq!(place.write(&["a=1", "key=2"]).unwrap(), Written::Unchanged);
    assert_eq!((fs::read_link(place.at("..data")).unwrap(), place.read("a")), (before, "1".to_owned()));

    for damage in ["content", "size", "mode", "more", "less"] {
        let key = place.at("..data/key");
        match damage {
            "content" => fs::write(&key, "3").unwrap(),
            "size" => fs::write(&key, "22").unwrap(),
            "mode" => fs::set_permissions(&key, Permissions::from_mode(0o640)).unwrap(),
            "more" => fs::write(place.at("..data/more"), "").unwrap(),
            _ => fs::remove_file(&key).unwrap(),
        }
        assert!(matches!(place.write(&["a=1", "key=2"]), Ok(Written::Replaced(_))), "{damage}");
        assert_eq!((place.read("key"), place.mode("key")), ("2".to_owned(), 0o600), "{damage}");
    }
}

#[test]
fn names_come_and_go_and_files_of_others_stay() {
    let mut place = Place::new();
    fs::write(place.at("a"), "left by another program").unwrap();
    fs::write(place.at("theirs"), "theirs").unwrap();
    fs::create_dir(place.at("..theirs")).unwrap();
    place.write(&["a=1", "token=2"]).unwrap();
    assert_eq!(place.read("a"), "1");
    place.write(&["a=1"]).unwrap();
    assert_eq!(place.listing(), ["..data", "..generation", "..theirs", "a", "theirs"]);
    assert_eq!(place.read("theirs"), "theirs");
}

#[test]
fn what_a_crash_left_behind_goes() {
    let mut place = Place::new();
    fs::create_dir(place.at("..2026-11-23T22:40:11.204Z")).unwrap();
    fs::write(place.at("..2026-11-23T22:40:11.204Z/key"), "half").unwrap();
    symlink("nowhere", place.at(CURRENT_NEW)).unwrap();
    place.write(&["a=1"]).unwrap();
    assert_eq!(place.listing(), ["..data", "..generation", "a"]);
}

#[test]
fn who_may_read_a_file_may_enter_and_nobody_else() {
    for (cert, key, expected) in
        [(0o644, 0o600, 0o755), (0o640, 0o640, 0o750), (0o600, 0o600, 0o700), (0o400, 0o440, 0o750)]
    {
        let mut place = Place::new();
        (place.config.cert_mode, place.config.key_mode) = (cert, key);
        place.write(&["a=1", "key=2"]).unwrap();
        assert_eq!((place.mode("a"), place.mode("key"), place.mode("..data")), (cert, key, expected));
    }
}

#[test]
fn a_failure_leaves_the_last_good_generation_and_nothing_else() {
    let mut place = Place::new();
    place.write(&["a=1", "key=2"]).unwrap();
    // A name that no file can have: it fails after another file was written.
    let long = format!("{}=3", "x".repeat(300));
    let error = place.write(&["a=3", "key=4", &long]).unwrap_err();
    assert!(matches!(&error, WriteError::Io { action: "create", .. }), "{error}");
    assert_eq!(place.listing(), ["..data", "..generation", "a", "key"]);
    assert_eq!((place.read("a"), place.read("key")), ("1".to_owned(), "2".to_owned()));

    let mut nowhere = Place::new();
    nowhere.config.directory = nowhere.at("missing");
    let error = nowhere.write(&["a=1"]).unwrap_err().to_string();
    assert!(error.contains("missing") && error.ends_with("the output directory must exist"), "{error}");
}

#[test]
fn two_generations_of_one_millisecond_have_two_names() {
    let place = Place::new();
    let first = create(place.directory.path(), place.now).unwrap();
    let second = create(place.directory.path(), place.now).unwrap();
    assert_eq!(second, format!("{first}-1"));
    assert!(is_generation(&format!("..{first}")) && is_generation(&format!("..{second}")));
    assert!(!is_generation(CURRENT) && !is_generation("..2026") && !is_generation("..some-long-directory-name"));
    // Set far back or ahead, clocks still give names.
    create(place.directory.path(), SystemTime::UNIX_EPOCH - Duration::from_secs(1)).unwrap();
}
