use super::{Backend, ID, append, block, fill, fresh, name, opening};
use crate::{AppendError, JournalError};
use sluice_model::{Epoch, JournalId};

/// A journal is made once, under one id.
pub async fn creates_once(backend: &dyn Backend) {
    let journal = backend.open().await;
    journal.create(&name(), ID).await.unwrap();
    journal.create(&name(), ID).await.unwrap();
    let other = JournalId::from_array([1; 16]);
    let error = journal.create(&name(), other).await.unwrap_err();
    assert!(matches!(error, JournalError::AlreadyExists { existing, .. } if existing == ID));
    assert_eq!(journal.list().await.unwrap(), [name()]);
    journal.close().await;
}

/// Only `create` makes journals.
pub async fn opens_only_what_is_here(backend: &dyn Backend) {
    let journal = backend.open().await;
    let error = journal.open(opening(1)).await.unwrap_err();
    assert!(matches!(error, JournalError::NotHere { other: None, .. }), "{error}");
    assert!(matches!(journal.status(&name()).await, Err(JournalError::NotHere { .. })));
    assert!(journal.list().await.unwrap().is_empty());
    journal.create(&name(), ID).await.unwrap();
    let other = crate::Open { id: JournalId::from_array([1; 16]), ..opening(1) };
    let error = journal.open(other).await.unwrap_err();
    assert!(matches!(error, JournalError::NotHere { other: Some(ID), .. }), "{error}");
    journal.close().await;
}

/// Blocks, fence and ids survive.
pub async fn keeps_its_state_over_a_reopen(backend: &dyn Backend) {
    let journal = backend.open().await;
    let mut opened = fresh(journal.as_ref()).await;
    assert!(opened.head.is_none());
    let digests = fill(opened.writer.as_mut(), 1..=5).await;
    journal.close().await;
    drop(journal);
    let journal = backend.open().await;
    assert!(matches!(journal.open(opening(0)).await, Err(JournalError::Fenced { .. })));
    let again = journal.open(opening(1)).await.unwrap();
    let head = again.head.unwrap();
    assert_eq!((head.height, head.digest), (5, digests[4]));
    assert!(again.writer_id > opened.writer_id);
    journal.close().await;
}

/// An open makes the caller the only writer.
pub async fn fences_earlier_writers(backend: &dyn Backend) {
    let journal = backend.open().await;
    let mut old = fresh(journal.as_ref()).await.writer;
    fill(old.as_mut(), 1..=2).await;
    let mut new = journal.open(opening(2)).await.unwrap();
    let error = append(old.as_mut(), block(3)).await.unwrap_err();
    let fence = Epoch::from_u64(2);
    assert!(matches!(error, AppendError::Fenced { fence: found } if found == fence), "{error}");
    assert_eq!(new.head.as_ref().unwrap().height, 2);
    fill(new.writer.as_mut(), 3..=3).await;
    assert!(append(old.as_mut(), block(4)).await.is_err(), "fenced for ever");
    journal.close().await;
}

/// The fence never falls.
pub async fn refuses_older_epochs(backend: &dyn Backend) {
    let journal = backend.open().await;
    journal.create(&name(), ID).await.unwrap();
    let mut writer = journal.open(opening(7)).await.unwrap().writer;
    let error = journal.open(opening(6)).await.unwrap_err();
    assert!(matches!(error, JournalError::Fenced { fence } if fence == Epoch::from_u64(7)));
    fill(writer.as_mut(), 1..=1).await;
    assert_eq!(journal.status(&name()).await.unwrap().fence, Epoch::from_u64(7));
    journal.close().await;
}

/// The last of several opens of one epoch wins, whatever its nonce.
pub async fn repeated_opens_fence_each_other(backend: &dyn Backend) {
    let journal = backend.open().await;
    let mut first = fresh(journal.as_ref()).await;
    let mut again = journal.open(opening(1)).await.unwrap();
    assert!(again.writer_id > first.writer_id);
    assert!(matches!(
        append(first.writer.as_mut(), block(1)).await,
        Err(AppendError::Fenced { .. })
    ));
    fill(again.writer.as_mut(), 1..=1).await;
    let other = crate::Open { nonce: "other".into(), ..opening(1) };
    let mut last = journal.open(other).await.unwrap();
    assert!(append(again.writer.as_mut(), block(2)).await.is_err());
    fill(last.writer.as_mut(), 2..=2).await;
    journal.close().await;
}
