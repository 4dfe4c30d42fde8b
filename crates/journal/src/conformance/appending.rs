use super::{
    Backend, append, block, block_of, fill, fresh, heights, name, next, opening, parent_of, reader,
};
use crate::{AppendError, Item, ReadFrom};
use sluice_model::{Digest, Pointer};

/// What is appended is read, in order and byte for byte.
pub async fn appends_and_reads_in_order(backend: &dyn Backend) {
    let journal = backend.open().await;
    let mut writer = fresh(journal.as_ref()).await.writer;
    fill(writer.as_mut(), 1..=20).await;
    let mut all = reader(journal.as_ref(), ReadFrom::Earliest).await;
    for height in 1..=20 {
        let Item::Entry(stored) = next(all.as_mut()).await else { panic!("a frame") };
        let sent = block(height).remove(0);
        assert_eq!(stored.changes, sent.changes);
        assert_eq!(stored.header.runs, sent.header.runs);
        assert_eq!((stored.header.height, stored.header.time), (height, sent.header.time));
        assert!(stored.header.end.is_some() && stored.header.epoch.as_u64() == 1);
    }
    journal.close().await;
}

/// The receipt names the block and its durability, and the status agrees.
pub async fn acknowledges_what_it_promises(backend: &dyn Backend) {
    let journal = backend.open().await;
    let mut writer = fresh(journal.as_ref()).await.writer;
    let receipt = append(writer.as_mut(), block(1)).await.unwrap();
    let status = journal.status(&name()).await.unwrap();
    assert_eq!(receipt.pointer, Pointer::from_height(1));
    assert!(!receipt.duplicate && !receipt.unverifiable);
    assert_eq!(receipt.durability, status.durability);
    let head = status.head.unwrap();
    assert_eq!((head.pointer, head.digest), (receipt.pointer, receipt.digest));
    assert_eq!((status.blocks, status.changes, status.oldest_height), (1, 2, 1));
    journal.close().await;
}

/// A block must name the head as its parent.
pub async fn refuses_a_wrong_parent(backend: &dyn Backend) {
    let journal = backend.open().await;
    let mut writer = fresh(journal.as_ref()).await.writer;
    fill(writer.as_mut(), 1..=2).await;
    let error = append(writer.as_mut(), block(4)).await.unwrap_err();
    let AppendError::WrongParent { expected, got, head, .. } = error else { panic!("{error}") };
    assert_eq!((expected, got), (parent_of(3), parent_of(4)));
    assert_eq!(head.unwrap().height, 2);
    fill(writer.as_mut(), 3..=3).await;
    journal.close().await;
}

/// The same content again is a duplicate; other content under the same name is refused.
pub async fn tells_duplicates_from_divergent_blocks(backend: &dyn Backend) {
    let journal = backend.open().await;
    let mut writer = fresh(journal.as_ref()).await.writer;
    let digests = fill(writer.as_mut(), 1..=3).await;
    for height in 1..=3u64 {
        let receipt = append(writer.as_mut(), block(height)).await.unwrap();
        assert!(receipt.duplicate && !receipt.unverifiable);
        assert_eq!(receipt.digest, digests[usize::try_from(height - 1).unwrap()]);
    }
    let key = 2u64.to_be_bytes().to_vec();
    let same = [("bank", key.clone(), key.clone()), ("staking", key.clone(), vec![7])];
    let receipt = append(writer.as_mut(), block_of(0, 2, Pointer::ORIGIN, &same)).await.unwrap();
    assert!(receipt.duplicate && receipt.digest == digests[1], "the sender knows no parent");
    let error = append(writer.as_mut(), block_of(0, 2, parent_of(7), &same)).await.unwrap_err();
    assert!(matches!(error, AppendError::Divergent { store: None, .. }), "another parent: {error}");
    let other = [("bank", key.clone(), key.clone()), ("staking", key.clone(), vec![8])];
    let error = append(writer.as_mut(), block_of(0, 2, parent_of(2), &other)).await.unwrap_err();
    assert!(
        matches!(&error, AppendError::Divergent { store: Some(store), .. } if store == "staking"),
        "{error}",
    );
    let fewer = [("bank", key.clone(), key)];
    let error = append(writer.as_mut(), block_of(0, 2, parent_of(2), &fewer)).await.unwrap_err();
    assert!(matches!(error, AppendError::Divergent { .. }), "{error}");
    let mut writer = journal.open(opening(2)).await.unwrap().writer;
    assert!(append(writer.as_mut(), block(3)).await.unwrap().duplicate, "another writer asks");
    assert_eq!(journal.status(&name()).await.unwrap().blocks, 3, "nothing was stored twice");
    journal.close().await;
}

/// The journal does not trust a producer's run table or bytes.
pub async fn refuses_what_does_not_fit_its_table(backend: &dyn Backend) {
    let journal = backend.open().await;
    let mut writer = fresh(journal.as_ref()).await.writer;
    let mut frames = block(1);
    frames[0].header.runs[0].count += 1;
    let error = append(writer.as_mut(), frames).await.unwrap_err();
    assert!(matches!(error, AppendError::Frame(_)), "{error}");
    let mut frames = block(1);
    let mut bytes = frames[0].changes.to_vec();
    bytes[0] ^= 1;
    frames[0].changes = bytes.into();
    assert!(matches!(append(writer.as_mut(), frames).await, Err(AppendError::Frame(_))));
    let mut frames = block(1);
    frames[0].header.ingestor = "other".parse().unwrap();
    assert!(matches!(append(writer.as_mut(), frames).await, Err(AppendError::Invalid { .. })));
    fill(writer.as_mut(), 1..=1).await;
    journal.close().await;
}

/// A block before the head that never was there is refused.
pub async fn refuses_going_back(backend: &dyn Backend) {
    let journal = backend.open().await;
    let mut writer = fresh(journal.as_ref()).await.writer;
    fill(writer.as_mut(), 1..=1).await;
    let sparse = block_of(0, 10, Pointer::from_height(1), &[("bank", vec![1], vec![1])]);
    append(writer.as_mut(), sparse).await.unwrap();
    let error = append(writer.as_mut(), block(5)).await.unwrap_err();
    assert!(matches!(error, AppendError::Behind { .. }), "{error}");
    let error = append(writer.as_mut(), block_of(3, 11, parent_of(11), &[])).await.unwrap_err();
    assert!(matches!(error, AppendError::WrongGeneration { .. }), "{error}");
    journal.close().await;
}

/// Digests are the journal's; claims are compared.
pub async fn computes_and_compares_digests(backend: &dyn Backend) {
    let journal = backend.open().await;
    let mut writer = fresh(journal.as_ref()).await.writer;
    let first = append(writer.as_mut(), block(1)).await.unwrap();
    let mut frames = block(2);
    frames[0].header.end.as_mut().unwrap().digest = Digest::from_array([9; 32]);
    let error = append(writer.as_mut(), frames).await.unwrap_err();
    assert!(matches!(error, AppendError::WrongDigest { .. }), "{error}");
    let mut frames = block(2);
    frames[0].header.end.as_mut().unwrap().parent_digest = Digest::from_array([9; 32]);
    let error = append(writer.as_mut(), frames).await.unwrap_err();
    assert!(matches!(error, AppendError::WrongDigest { .. }), "{error}");
    let mut frames = block(2);
    frames[0].header.end.as_mut().unwrap().parent_digest = first.digest;
    append(writer.as_mut(), frames).await.unwrap();
    let mut all = reader(journal.as_ref(), ReadFrom::Height(2)).await;
    let Item::Entry(stored) = next(all.as_mut()).await else { panic!("a frame") };
    let end = stored.header.end.as_ref().unwrap();
    assert_eq!(end.parent_digest, first.digest);
    assert_eq!(end.states.len(), 2);
    journal.close().await;
}

/// A block of several frames.
pub fn large(height: u64) -> Vec<sluice_frame::Frame> {
    let pairs: Vec<_> = (0..5u8)
        .map(|i| (["bank", "staking"][usize::from(i % 2)], vec![i], vec![i; 300 << 10]))
        .collect();
    block_of(0, height, parent_of(height), &pairs)
}

/// Frames of a block come together and in order of parts.
pub async fn blocks_of_many_frames_are_whole(backend: &dyn Backend) {
    let journal = backend.open().await;
    let mut writer = fresh(journal.as_ref()).await.writer;
    fill(writer.as_mut(), 1..=1).await;
    let frames = large(2);
    assert!(frames.len() > 2);
    let receipt = append(writer.as_mut(), large(2)).await.unwrap();
    fill(writer.as_mut(), 3..=3).await;
    assert!(append(writer.as_mut(), large(2)).await.unwrap().duplicate);
    let mut all = reader(journal.as_ref(), ReadFrom::Height(2)).await;
    for (part, sent) in frames.iter().enumerate() {
        let Item::Entry(stored) = next(all.as_mut()).await else { panic!("a frame") };
        assert_eq!((stored.header.height, stored.header.part as usize), (2, part));
        assert_eq!(stored.changes, sent.changes);
        let end = stored.header.end.as_ref().map(|end| end.digest);
        assert_eq!(end, (part + 1 == frames.len()).then_some(receipt.digest));
    }
    journal.close().await;
}

/// A block whose end did not come is not there, for readers and for the next writer.
pub async fn unfinished_blocks_are_never_seen(backend: &dyn Backend) {
    let journal = backend.open().await;
    let mut writer = fresh(journal.as_ref()).await.writer;
    fill(writer.as_mut(), 1..=1).await;
    let mut frames = large(2);
    frames.pop();
    for frame in frames.clone() {
        assert!(writer.append(frame).await.unwrap().is_none());
    }
    let skipped = frames.pop().unwrap();
    fill(writer.as_mut(), 2..=2).await;
    assert!(writer.append(skipped).await.is_err(), "a part of a block that was given up");
    let mut writer = journal.open(opening(1)).await.unwrap().writer;
    for frame in large(3).into_iter().take(2) {
        writer.append(frame).await.unwrap();
    }
    let opened = journal.open(opening(2)).await.unwrap();
    assert_eq!(opened.head.unwrap().height, 2);
    let mut all = reader(journal.as_ref(), ReadFrom::Earliest).await;
    assert_eq!(heights(all.as_mut()).await, [1, 2]);
    journal.close().await;
}

/// The next blocks may follow before the first is acknowledged.
pub async fn pipelines_blocks(backend: &dyn Backend) {
    let journal = backend.open().await;
    let mut writer = fresh(journal.as_ref()).await.writer;
    let mut tickets = Vec::new();
    for height in 1..=50 {
        for frame in block(height) {
            tickets.extend(writer.append(frame).await.unwrap());
        }
    }
    assert!(append(writer.as_mut(), block(50)).await.unwrap().duplicate);
    for (ticket, height) in tickets.into_iter().zip(1..) {
        assert_eq!(ticket.await.unwrap().pointer, Pointer::from_height(height));
    }
    journal.close().await;
}
