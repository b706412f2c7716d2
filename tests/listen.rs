//! Listeners: the socket file belongs to us, and nothing else does.
#![cfg(feature = "dev-issuer")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        net::{UnixListener, UnixStream},
    },
    path::Path,
};

use spiffe_sds::{
    listen::{self, ListenError},
    secret,
    server::{Config, Server},
};
use support::{
    world::{World, eventually},
    xds::Sotw,
};

fn unix(path: &Path) -> listen::UnixConfig {
    listen::UnixConfig { path: path.to_owned(), mode: 0o600, owner: None, group: None }
}

async fn bind(listeners: Vec<listen::Config>) -> Result<Server, ListenError> {
    Server::bind(Config { listeners, ..Config::default() }, secret::Config::default()).await
}

async fn bind_unix(path: &Path) -> Result<Server, ListenError> {
    bind(vec![listen::Config::Unix(unix(path))]).await
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn mode_owner_and_group_are_as_configured() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sds.sock");
    let ours = fs::metadata(directory.path()).unwrap();
    // Only root can give a file away.
    let (uid, gid) = if ours.uid() == 0 { (12_345, 23_456) } else { (ours.uid(), ours.gid()) };
    for mode in [0o600, 0o660, 0o666] {
        let config = listen::UnixConfig { mode, owner: Some(uid), group: Some(gid), ..unix(&path) };
        let server = bind(vec![listen::Config::Unix(config)]).await.unwrap();
        let found = fs::metadata(&path).unwrap();
        assert_eq!((found.permissions().mode() & 0o777, found.uid(), found.gid()), (mode, uid, gid));
        assert_eq!(names(directory.path()), ["sds.sock"], "nothing is left beside it");
        drop(server);
    }
}

#[tokio::test]
async fn clients_may_connect_before_anything_is_served() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sds.sock");
    let tcp = listen::Config::Tcp("127.0.0.1:0".parse().unwrap());
    let server = bind(vec![listen::Config::Unix(unix(&path)), tcp]).await.unwrap();
    UnixStream::connect(&path).unwrap();
    let bound = server.bound();
    assert_eq!(bound[0], listen::Bound::Unix(path));
    let listen::Bound::Tcp(address) = bound[1] else { panic!("not TCP") };
    assert_ne!(address.port(), 0);
    std::net::TcpStream::connect(address).unwrap();
}

#[tokio::test]
async fn a_stale_socket_is_replaced() {
    let mut world = World::prepare(|_| {}).await;
    drop(UnixListener::bind(world.socket()).unwrap());
    assert!(world.socket().exists());
    world.serve().await;
    let mut client = Sotw::secrets(&world.unix().await).await;
    client.subscribe(["default"]).await;
    client.expect(["default"]).await;
}

#[tokio::test]
async fn what_is_not_ours_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sds.sock");
    let live = UnixListener::bind(&path).unwrap();
    assert!(matches!(bind_unix(&path).await, Err(ListenError::InUse(found)) if found == path));
    UnixStream::connect(&path).unwrap();
    drop(live);

    let file = directory.path().join("file");
    fs::write(&file, "precious").unwrap();
    assert!(matches!(bind_unix(&file).await, Err(ListenError::NotASocket(found)) if found == file));
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    assert!(matches!(bind_unix(directory.path()).await, Err(ListenError::NotASocket(_))));
    // A link may point anywhere.
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    assert!(matches!(bind_unix(&link).await, Err(ListenError::NotASocket(_))));

    let nowhere = directory.path().join("missing/sds.sock");
    assert!(matches!(bind_unix(&nowhere).await, Err(ListenError::NoDirectory(_))));
    let long = directory.path().join("x".repeat(120));
    assert!(matches!(bind_unix(&long).await, Err(ListenError::Os { .. })));
    assert_eq!(names(directory.path()), ["file", "link", "sds.sock"]);
}

#[tokio::test]
async fn one_listener_that_fails_takes_the_others_back() {
    let directory = tempfile::tempdir().unwrap();
    let first = listen::Config::Unix(unix(&directory.path().join("sds.sock")));
    let second = listen::Config::Unix(unix(&directory.path().join("missing/sds.sock")));
    assert!(bind(vec![first, second]).await.is_err());
    assert!(names(directory.path()).is_empty());
}

#[tokio::test]
async fn only_loopback_is_listened_on() {
    for address in ["0.0.0.0:0", "192.0.2.1:0", "[::]:0"] {
        let address = address.parse().unwrap();
        let Err(error) = bind(vec![listen::Config::Tcp(address)]).await else { panic!("{address}") };
        assert!(matches!(error, ListenError::NotLoopback(found) if found == address));
        assert!(error.to_string().contains("not authenticated"), "{error}");
    }
}

/// Istio's agent unlinks the socket when it starts, and cleaners of temporary directories do.
#[tokio::test]
async fn an_unlinked_socket_comes_back() {
    let world = World::start().await;
    let mut client = Sotw::secrets(&world.unix().await).await;
    client.subscribe(["default"]).await;
    client.expect(["default"]).await;
    client.ack().await;
    for _ in 0..3 {
        fs::remove_file(world.socket()).unwrap();
        let mut exists = false;
        support::world::bounded(async {
            while !exists {
                client.expect_silence().await;
                exists = world.socket().exists();
            }
        })
        .await;
        let mut newcomer = Sotw::secrets(&world.unix().await).await;
        newcomer.subscribe(["default"]).await;
        newcomer.expect(["default"]).await;
        assert_eq!(fs::metadata(world.socket()).unwrap().permissions().mode() & 0o777, 0o600);
    }
    client.expect_silence().await;
}

#[tokio::test]
async fn a_socket_that_somebody_else_put_there_stays_theirs() {
    let mut world = World::start().await;
    let mut client = Sotw::secrets(&world.unix().await).await;
    client.subscribe(["default"]).await;
    client.expect(["default"]).await;
    client.ack().await;

    let staged = world.directory.path().join("theirs.sock");
    let theirs = UnixListener::bind(&staged).unwrap();
    theirs.set_nonblocking(true).unwrap();
    fs::rename(&staged, world.socket()).unwrap();
    let inode = fs::metadata(world.socket()).unwrap().ino();
    // More changes in the directory, and turns for the server to see them.
    for at in 0..10 {
        fs::write(world.directory.path().join(format!("{at}")), "").unwrap();
        client.expect_silence().await;
    }
    let theirs_by_then = UnixStream::connect(world.socket()).is_ok() && theirs.accept().is_ok();
    assert!(theirs_by_then, "they are not connected to");
    world.issuer.rotate().unwrap();
    client.expect(["default"]).await;
    drop(client);
    world.stop().await;
    assert_eq!(fs::metadata(world.socket()).unwrap().ino(), inode, "it is not ours to remove");
}

#[tokio::test]
async fn our_own_socket_goes_with_us() {
    let mut world = World::start().await;
    assert!(world.socket().exists());
    world.stop().await;
    assert!(!world.socket().exists());
    eventually("only the issuer's socket is left", || names(world.directory.path()) == ["api.sock"]).await;
}
