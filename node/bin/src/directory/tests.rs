//! Every way in which a data directory can be refused, on real folders: in use, not a directory, not writable, newer,
//! damaged, made with something else. A refusal leaves what it found as it was.

use super::*;
use std::os::unix::fs::PermissionsExt;

const MIB: u64 = 1 << 20;
const OTHERWISE: Layout = Layout {
    shards: 2,
    segment_bytes: 4 * MIB,
};
const NOTHING_ASKED: Asked = Asked {
    shards: None,
    segment_bytes: None,
    otherwise: OTHERWISE,
};

/// A folder of this test alone, removed with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("tiderace-test-{}-{name}", std::process::id()));
        drop(fs::remove_dir_all(&path));
        fs::create_dir_all(&path).expect("a writable temporary directory");
        Self(path)
    }

    fn refusal(&self, asked: Asked) -> (Exit, String) {
        let failure = DataDirectory::open(&self.0, asked).expect_err("refused");
        (failure.exit, failure.to_string())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

#[test]
fn a_first_start_makes_it_and_the_next_finds_the_same() {
    let folder = Folder::new("first");
    let first = DataDirectory::open(&folder.0, NOTHING_ASKED).expect("a first start");
    assert!(first.is_new && first.layout == OTHERWISE && first.shards.len() == 2);
    drop(first);
    // Another machine's defaults change nothing.
    let moved = Asked {
        otherwise: Layout {
            shards: 64,
            segment_bytes: MIB,
        },
        ..NOTHING_ASKED
    };
    let next = DataDirectory::open(&folder.0, moved).expect("a next start");
    assert!(!next.is_new && next.layout == OTHERWISE);
}

#[test]
fn a_first_start_that_was_cut_off_is_repeated() {
    let folder = Folder::new("cut");
    write_layout(&folder.0, OTHERWISE).expect("written");
    fs::create_dir(folder.0.join(CONTROL)).expect("made");
    let next = DataDirectory::open(&folder.0, NOTHING_ASKED).expect("a next start");
    assert_eq!(next.shards.len(), 2);
}

#[test]
fn a_directory_in_use_is_refused() {
    let folder = Folder::new("in-use");
    let holder = DataDirectory::open(&folder.0, NOTHING_ASKED).expect("a first start");
    let (exit, message) = folder.refusal(NOTHING_ASKED);
    assert_eq!(exit, Exit::DirectoryInUse);
    assert!(
        message.contains("in use by another process") && message.contains("what to do"),
        "{message}"
    );
    drop(holder);
    drop(DataDirectory::open(&folder.0, NOTHING_ASKED).expect("free again"));
}

// J-17
#[test]
fn writes_of_a_killed_node_are_waited_for_and_have_an_exit_of_their_own() {
    let folder = Folder::new("writes");
    let DataDirectory { root, control, .. } =
        DataDirectory::open(&folder.0, NOTHING_ASKED).expect("a first start");
    // The process is gone, and a ring of it is not.
    drop(root);
    let open = |most| DataDirectory::open_within(&folder.0, NOTHING_ASKED, TEARDOWN_MAX, most);
    let failure = open(Duration::from_millis(1)).expect_err("refused");
    assert_eq!(failure.exit, Exit::WritesHang);
    let message = failure.to_string();
    assert!(
        message.contains("still hang in the kernel after 1ms") && message.contains("what to do"),
        "{message}"
    );
    let (waiter, path) = (std::thread::spawn(move || drop(control)), &folder.0);
    drop(DataDirectory::open(path, NOTHING_ASKED).expect("free again"));
    waiter.join().expect("it drops");
}

#[test]
fn what_the_first_start_fixed_is_not_changed() {
    let folder = Folder::new("differs");
    drop(DataDirectory::open(&folder.0, NOTHING_ASKED).expect("a first start"));
    let (exit, message) = folder.refusal(Asked {
        shards: Some(3),
        ..NOTHING_ASKED
    });
    assert_eq!(exit, Exit::DirectoryDiffers);
    assert!(
        message.contains("made with 2 shards, and 3 are asked for"),
        "{message}"
    );
    let (exit, message) = folder.refusal(Asked {
        segment_bytes: Some(8 * MIB),
        ..NOTHING_ASKED
    });
    assert_eq!(exit, Exit::DirectoryDiffers);
    assert!(
        message.contains("segments of 4MiB, and 8MiB is asked for"),
        "{message}"
    );
}

#[test]
fn a_newer_layout_is_refused_whatever_else_it_says() {
    let folder = Folder::new("newer");
    fs::write(folder.0.join(LAYOUT), "version = 2\nsomething = [1]\n").expect("written");
    let (exit, message) = folder.refusal(NOTHING_ASKED);
    assert_eq!(exit, Exit::DirectoryNewer);
    assert!(
        message.contains("has layout version 2; this program knows 1"),
        "{message}"
    );
}

#[test]
fn a_damaged_layout_is_refused_and_left_as_it_is() {
    for text in [
        "",
        "version = 1\n",
        "version = 1\nshards = 0\nsegment = \"4MiB\"\n",
        "version = 0\n",
        "\0\0\0",
    ] {
        let folder = Folder::new("damaged");
        fs::write(folder.0.join(LAYOUT), text).expect("written");
        assert_eq!(
            folder.refusal(NOTHING_ASKED).0,
            Exit::DirectoryDamaged,
            "{text:?}"
        );
        assert_eq!(
            fs::read_to_string(folder.0.join(LAYOUT)).expect("kept"),
            text
        );
    }
    let folder = Folder::new("lost");
    fs::create_dir(folder.0.join("shard-0000")).expect("made");
    let (exit, message) = folder.refusal(NOTHING_ASKED);
    assert_eq!(exit, Exit::DirectoryDamaged);
    assert!(
        message.contains("holds the journal shard-0000 and no file `layout`"),
        "{message}"
    );
    assert!(!folder.0.join(LAYOUT).exists());
}

#[test]
fn a_path_that_is_no_directory_is_refused() {
    let folder = Folder::new("file");
    let path = folder.0.join("taken");
    fs::write(&path, "").expect("written");
    assert_eq!(
        DataDirectory::open(&path, NOTHING_ASKED)
            .expect_err("refused")
            .exit,
        Exit::DirectoryUnusable
    );
}

#[test]
fn a_directory_that_cannot_be_written_is_refused() {
    let folder = Folder::new("read-only");
    fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o555)).expect("own folder");
    // Root writes anywhere; there the message is tested by itself.
    let message = match File::create(folder.0.join("probe")) {
        Ok(_) => unusable(&folder.0, &ErrorKind::PermissionDenied.into()).to_string(),
        Err(_) => {
            let (exit, message) = folder.refusal(NOTHING_ASKED);
            assert_eq!(exit, Exit::DirectoryUnusable);
            message
        }
    };
    assert!(
        message.contains("give it to the user that runs tiderace"),
        "{message}"
    );
}

#[test]
fn a_full_disk_and_a_read_only_mount_have_their_own_words() {
    let full = unusable(Path::new("d"), &ErrorKind::StorageFull.into());
    assert_eq!(full.exit, Exit::NoSpace);
    let mount = unusable(Path::new("d"), &ErrorKind::ReadOnlyFilesystem.into());
    assert!(mount.to_string().contains("mounted read-only"));
}

#[test]
fn the_deepest_and_latest_mount_counts() {
    let mounts = "1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:2 / /tmp rw shared:1 - tmpfs tmpfs rw\n\
                  3 2 8:3 / /tmp/real\\040disk rw - xfs /dev/b rw\n4 1 8:4 / /tmp rw - btrfs /dev/c rw\n";
    let at = |path: &str| mount_of(mounts, Path::new(path));
    assert_eq!(at("/var/tmp").as_deref(), Some("ext4"));
    assert_eq!(at("/tmp/x").as_deref(), Some("btrfs"));
    assert_eq!(at("/tmp/real disk/x").as_deref(), Some("xfs"));
    assert!(is_memory("tmpfs") && !is_memory("ext4"));
    assert!(file_system(Path::new("/")).is_some());
}

#[test]
fn without_descriptors_the_limit_is_named_and_not_the_directory() {
    for code in NO_DESCRIPTORS {
        let failure = unusable(Path::new("d"), &io::Error::from_raw_os_error(code));
        assert_eq!(failure.exit, Exit::OpenFiles);
        assert!(failure.to_string().contains("LimitNOFILE="), "{failure}");
    }
}
