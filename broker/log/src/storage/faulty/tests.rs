//! What the disk in memory keeps, loses and refuses.

use super::*;
use crate::storage::conformance;

fn contents_after_crash(seed: u64) -> Vec<u8> {
    let storage = FaultyStorage::new(seed);
    let file = storage.create("a", 64).unwrap();
    file.write_at(0, &[&[1; 32]]).unwrap();
    file.sync_data().unwrap();
    storage.sync_directory().unwrap();
    file.write_at(16, &[&[2; 48]]).unwrap();
    storage.crash();
    assert!(file.read_at(0, &mut [0]).is_err(), "a handle does not outlive its process");
    storage.contents("a").unwrap()
}

#[test]
fn the_disk_in_memory_does_what_every_storage_must() {
    conformance(&FaultyStorage::new(1));
}

#[test]
fn a_crash_keeps_what_was_synced_and_loses_whole_sectors_of_the_rest() {
    let mut lost = 0;
    for seed in 0..200 {
        let bytes = contents_after_crash(seed);
        assert_eq!(bytes, contents_after_crash(seed), "one seed, one outcome");
        assert_eq!(bytes[..16], [1; 16]);
        for (index, sector) in bytes.chunks(8).enumerate().skip(2) {
            let old = if index < 4 { 1 } else { 0 };
            assert!(sector == [2; 8] || sector == [old; 8], "a sector is new or old");
            lost += usize::from(sector != [2; 8]);
        }
    }
    assert!(lost > 100, "crashes lose something");
}

#[test]
fn a_failed_sync_is_not_made_good_by_another() {
    let lost = (0..50).any(|seed| {
        let storage = FaultyStorage::new(seed);
        let file = storage.create("a", 64).unwrap();
        file.sync_data().unwrap();
        storage.sync_directory().unwrap();
        file.write_at(0, &[&[5; 64]]).unwrap();
        storage.fail_next_sync();
        assert!(file.sync_data().is_err());
        file.sync_data().unwrap();
        storage.crash();
        storage.contents("a").unwrap() != vec![5; 64]
    });
    assert!(lost);
}

#[test]
fn a_full_disk_says_so() {
    let storage = FaultyStorage::new(1);
    let file = storage.create("a", 8).unwrap();
    storage.full_after(Some(4));
    file.write_at(0, &[b"1234"]).unwrap();
    assert_eq!(file.write_at(4, &[b"5"]).unwrap_err().kind(), io::ErrorKind::StorageFull);
    storage.full_after(None);
    file.write_at(4, &[b"5"]).unwrap();
}

#[test]
fn what_was_allocated_can_be_written_on_a_full_disk_and_what_is_removed_makes_room() {
    let storage = FaultyStorage::new(1);
    let file = storage.create("a", 8).unwrap();
    file.allocate(0, 8).unwrap();
    storage.limit(Some(4));
    file.write_at(0, &[b"12345678"]).unwrap();
    assert_eq!(file.allocate(8, 16).unwrap_err().kind(), io::ErrorKind::StorageFull);
    let other = storage.create("b", 0).unwrap();
    assert_eq!(other.write_at(0, &[b"12345"]).unwrap_err().kind(), io::ErrorKind::StorageFull);
    storage.remove("a").unwrap();
    other.write_at(0, &[b"123456789012"]).unwrap();
    assert_eq!(other.write_at(12, &[b"3"]).unwrap_err().kind(), io::ErrorKind::StorageFull);
    storage.limit(None);
    other.write_at(12, &[b"3"]).unwrap();
}

#[test]
fn a_file_whose_directory_was_not_synced_may_be_gone() {
    let gone = (0..50).filter(|seed| {
        let storage = FaultyStorage::new(*seed);
        storage.create("a", 8).unwrap();
        storage.crash();
        storage.contents("a").is_none()
    });
    assert!((5..45).contains(&gone.count()));
}
