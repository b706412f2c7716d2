use super::*;

/// What real Envoys say, compared with them in `tests/envoy_bootstrap.rs`.
const TABLE: &str = include_str!("../../../tests/envoy_bootstrap/re2.txt");

#[test]
fn the_verdict_is_envoys() {
    let mut seen = 0;
    for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
        let (verdict, text) = line.split_at(2);
        assert_eq!(check(text).is_ok(), verdict != "- ", "{text:?}: {:?}", check(text));
        seen += 1;
    }
    assert!(seen > 250, "{seen}");
}

#[test]
fn errors_name_what_is_wrong() {
    for (text, error) in [
        ("a(b", Re2Error::MissingParenthesis),
        ("x{2}{3}", Re2Error::DoubleRepetition("{2}{3}".into())),
        ("ab*+c", Re2Error::DoubleRepetition("*+".into())),
        ("(a{100}){11}b", Re2Error::RepetitionSize("{11}".into())),
        ("a|+?b", Re2Error::NothingToRepeat("+?".into())),
        ("a(?=b)", Re2Error::Group("(?=b".into())),
        ("(?P<a-b>c)", Re2Error::GroupName("a-b".into())),
        ("a\\u{63}", Re2Error::Escape("\\u{63}".into())),
        ("[a-z][9-0]", Re2Error::Class("9-0".into())),
        ("\\p{Klingon}", Re2Error::Class("\\p{Klingon}".into())),
    ] {
        assert_eq!(check(text), Err(error), "{text}");
    }
}

#[test]
fn nothing_makes_it_slow_or_deep() {
    for part in ["(", "(?:", "[", "\\Q", "a{", "[[:", "\\p{", "(?P<", "{", "a*", "(?i)", "\\x{"] {
        let _ = check(&part.repeat(2_000));
    }
    assert!(check(&format!("{}a{}", "(".repeat(20_000), ")".repeat(20_000))).is_ok());
}

#[test]
fn groups_are_sorted() {
    assert!(groups::GROUPS.is_sorted());
}
