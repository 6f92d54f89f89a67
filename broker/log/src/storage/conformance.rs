//! What every storage must do, as a test to be run against each of them.

use std::io;

use super::Storage;

/// Tries all that a storage must do; whoever makes one runs this against it in a test.
///
/// # Panics
/// When the storage does something else.
#[expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]
pub fn conformance(storage: &dyn Storage) {
    let file = storage.create("a", 16).unwrap();
    assert_eq!(storage.create("a", 16).err().unwrap().kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(file.len().unwrap(), 16);
    let mut sixteen = [9; 16];
    file.read_at(0, &mut sixteen).unwrap();
    assert_eq!(sixteen, [0; 16], "a created file reads as zeros");

    file.write_at(3, &[b"ab", b"", b"cde"]).unwrap();
    file.read_at(0, &mut sixteen).unwrap();
    assert_eq!(&sixteen, b"\0\0\0abcde\0\0\0\0\0\0\0\0");
    file.write_at(14, &[b"xyz"]).unwrap();
    assert_eq!(file.len().unwrap(), 17, "a write beyond the end grows the file");
    assert!(!file.is_empty().unwrap());
    assert_eq!(file.read_at(15, &mut [0; 3]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    file.allocate(17, 40).unwrap();
    assert_eq!(file.len().unwrap(), 40);
    file.read_at(1, &mut sixteen).unwrap();
    assert_eq!(&sixteen, b"\0\0abcde\0\0\0\0\0\0xyz", "what lies before is as it was");
    file.sync_data().unwrap();
    storage.sync_directory().unwrap();

    let large = vec![7; 3 << 20];
    file.write_at(1, &[b"12", &large, b"34", &large]).unwrap();
    let mut seen = [0; 4];
    file.read_at(1 + (3 << 20), &mut seen).unwrap();
    assert_eq!(&seen, &[7, 7, b'3', b'4'], "small and large slices keep their order");

    if file.read_in_memory(1 + (3 << 20), &mut seen).unwrap() {
        assert_eq!(&seen, &[7, 7, b'3', b'4'], "what is in memory is what is stored");
    }
    let end = file.len().unwrap();
    assert!(
        !file.read_in_memory(end - 2, &mut seen).unwrap(),
        "beyond the end nothing is in memory"
    );

    let again = storage.open("a").unwrap();
    again.reads_as_asked();
    again.will_read(0, end);
    again.read_at(3, &mut sixteen[..2]).unwrap();
    assert_eq!(&sixteen[..2], [7, 7], "another handle sees what was written");
    assert_eq!(storage.list().unwrap().iter().filter(|entry| entry.name == "a").count(), 1);
    storage.remove("a").unwrap();
    assert_eq!(storage.open("a").err().unwrap().kind(), io::ErrorKind::NotFound);
    assert_eq!(storage.remove("a").unwrap_err().kind(), io::ErrorKind::NotFound);
    again.read_at(3, &mut sixteen[..2]).unwrap();
    assert!(storage.list().unwrap().iter().all(|entry| entry.name != "a"));

    let lock = storage.lock().unwrap();
    assert_eq!(storage.lock().err().unwrap().kind(), io::ErrorKind::WouldBlock);
    drop(lock);
    drop(storage.lock().unwrap());
}
