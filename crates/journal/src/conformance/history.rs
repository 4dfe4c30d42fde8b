use super::{Backend, append, block_of, fill, fresh, name, next, reader};
use crate::{AppendError, Item, ReadFrom};
use sluice_frame::{BlockEnd, Frame, Header, Record};
use sluice_model::{Digest, Generation, Kind, Pointer, Position};

fn end() -> Option<BlockEnd> {
    Some(BlockEnd { parts: 1, ..BlockEnd::default() })
}

/// A `GAP` record.
pub fn gap(from: u64, to: u64) -> Frame {
    let mut header = Header::new(Kind::Gap, name(), Pointer::from_height(to), to);
    header.parent = Pointer::from_height(from - 1);
    header.end = end();
    header.record = Some(Record::Gap {
        from: Pointer::from_height(from),
        to: Pointer::from_height(to),
        cause: "pruned".to_owned(),
    });
    Frame { header, changes: bytes::Bytes::new() }
}

/// A `GENERATION` record on top of a head.
pub fn rewind(generation: u32, base: u64, base_digest: Digest, head: u64) -> Frame {
    let mut header = Header::new(Kind::Generation, name(), Pointer::from_height(base), base);
    header.generation = Generation(generation);
    header.parent = Pointer::from_height(head);
    header.end = end();
    header.record = Some(Record::GenerationStart {
        generation: Generation(generation),
        base_generation: Generation(generation - 1),
        base_pointer: Pointer::from_height(base),
        base_digest,
        reason: "rollback".to_owned(),
        actor: "operator".to_owned(),
    });
    Frame { header, changes: bytes::Bytes::new() }
}

/// A gap stands in the chain like a block.
pub async fn control_records_are_chained(backend: &dyn Backend) {
    let journal = backend.open().await;
    let mut writer = fresh(journal.as_ref()).await.writer;
    fill(writer.as_mut(), 1..=3).await;
    assert!(
        append(writer.as_mut(), vec![gap(5, 9)]).await.is_err(),
        "it does not begin at the head"
    );
    let receipt = append(writer.as_mut(), vec![gap(4, 9)]).await.unwrap();
    assert!(append(writer.as_mut(), vec![gap(4, 9)]).await.unwrap().duplicate);
    fill(writer.as_mut(), 10..=10).await;
    let mut all = reader(journal.as_ref(), ReadFrom::Height(3)).await;
    assert!(matches!(next(all.as_mut()).await, Item::Entry(_)));
    let Item::Gap(notice) = next(all.as_mut()).await else { panic!("a gap") };
    assert_eq!(notice.through.pointer, Pointer::from_height(9));
    assert_eq!((notice.from, notice.cause.as_str()), (Pointer::from_height(4), "pruned"));
    assert_eq!(notice.digest, receipt.digest);
    let Item::Entry(stored) = next(all.as_mut()).await else { panic!("a frame") };
    assert_eq!(stored.header.end.as_ref().unwrap().parent_digest, receipt.digest);
    journal.close().await;
}

/// Going back starts another history, in band; positions of both stay apart.
pub async fn a_new_history_begins_at_its_base(backend: &dyn Backend) {
    let journal = backend.open().await;
    let mut writer = fresh(journal.as_ref()).await.writer;
    let digests = fill(writer.as_mut(), 1..=5).await;
    let wrong = rewind(1, 3, digests[3], 5);
    assert!(matches!(
        append(writer.as_mut(), vec![wrong]).await,
        Err(AppendError::WrongDigest { .. })
    ));
    append(writer.as_mut(), vec![rewind(1, 3, digests[2], 5)]).await.unwrap();
    let pairs = [("bank", vec![4], vec![44])];
    let receipt =
        append(writer.as_mut(), block_of(1, 4, Pointer::from_height(3), &pairs)).await.unwrap();
    assert_eq!(receipt.generation, Generation(1));
    drop(writer);
    journal.close().await;
    let journal = backend.open().await;
    let head = journal.status(&name()).await.unwrap().head.unwrap();
    assert_eq!((head.generation, head.height, head.digest), (Generation(1), 4, receipt.digest));
    let old = Position::end_of(Generation(0), Pointer::from_height(5));
    let mut rest = reader(journal.as_ref(), ReadFrom::After(old, Some(digests[4]))).await;
    let Item::Generation(notice) = next(rest.as_mut()).await else { panic!("a new history") };
    assert_eq!(notice.base.pointer, Pointer::from_height(3));
    assert_eq!((notice.base_digest, notice.through.generation), (digests[2], Generation(1)));
    let Item::Entry(stored) = next(rest.as_mut()).await else { panic!("a frame") };
    assert_eq!((stored.header.generation, stored.header.height), (Generation(1), 4));
    let base = Position::end_of(Generation(1), Pointer::from_height(3));
    let mut rest = reader(journal.as_ref(), ReadFrom::After(base, Some(digests[2]))).await;
    assert!(matches!(next(rest.as_mut()).await, Item::Entry(_)));
    journal.close().await;
}
