#![expect(
    clippy::cast_possible_truncation,
    reason = "frames are bounded far below 4 GiB, runs and routes far below 2^32"
)]

use std::sync::Arc;

use bytes::BufMut;
use sluice_model::{Op, TopicRule, TopicRules};

use crate::{
    error::{ScanError, ScanReason},
    header::Run,
    limits::{MAX_CHANGE, MAX_ROUTES, MAX_RUNS},
    routes::{Route, RouteTable},
    varint,
};

/// Field 15 of a frame, length-delimited: the tag before every change.
pub const CHANGE_TAG: u8 = 15 << 3 | 2;

const STORE_TAG: u8 = 0x0a;
const DELETE_TAG: u8 = 0x10;
const KEY_TAG: u8 = 0x1a;
const VALUE_TAG: u8 = 0x22;

/// One change as it stands in a region. The store is not yet known to be text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Element<'a> {
    /// The whole element, tag and length included.
    pub raw: &'a [u8],
    /// The store key's bytes.
    pub store: &'a [u8],
    /// Set or delete.
    pub op: Op,
    /// The key.
    pub key: &'a [u8],
    /// The value.
    pub value: &'a [u8],
}

/// Walks the changes of a region, checking that each is in canonical form.
#[derive(Clone, Debug)]
pub struct Elements<'a> {
    region: &'a [u8],
    at: usize,
    change: u32,
}

impl<'a> Elements<'a> {
    /// A walk from the region's begin.
    pub const fn new(region: &'a [u8]) -> Self {
        Self { region, at: 0, change: 0 }
    }

    /// Offset of the next change, in bytes.
    pub const fn offset(&self) -> usize {
        self.at
    }

    #[cold]
    #[inline(never)]
    fn next_uncommon(&mut self) -> Option<Result<Element<'a>, ScanError>> {
        if self.at >= self.region.len() {
            return None;
        }
        let read = element(self.region, self.at);
        let read =
            read.map_err(|reason| ScanError { change: self.change, offset: self.at, reason });
        self.at = read.as_ref().map_or(self.region.len(), |(_, next)| *next);
        self.change = self.change.saturating_add(u32::from(read.is_ok()));
        Some(read.map(|(element, _)| element))
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Result<Element<'a>, ScanError>;

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        match common_element(self.region, self.at) {
            Some(element) => {
                self.at += element.raw.len();
                self.change = self.change.saturating_add(1);
                Some(Ok(element))
            }
            None => self.next_uncommon(),
        }
    }
}

/// Reads an element of the common shape: every length in one or two bytes. What is different, or
/// wrong, is left to [`element`], which says what and takes three times as long.
#[inline(always)]
fn common_element(region: &[u8], at: usize) -> Option<Element<'_>> {
    let rest = region.get(at..)?;
    let (body, left) = common_field(rest, CHANGE_TAG)?;
    let raw = rest.get(..rest.len() - left.len())?;
    let (store, mut body) = common_field(body, STORE_TAG)?;
    let mut op = Op::Set;
    if let [DELETE_TAG, 1, left @ ..] = body {
        (op, body) = (Op::Delete, left);
    }
    let (mut key, mut value): (&[u8], &[u8]) = (&[], &[]);
    if body.first() == Some(&KEY_TAG) {
        (key, body) = common_field(body, KEY_TAG)?;
    }
    if body.first() == Some(&VALUE_TAG) {
        (value, body) = common_field(body, VALUE_TAG)?;
    }
    body.is_empty().then_some(Element { raw, store, op, key, value })
}

/// Splits a field that is not empty, and whose length has one or two bytes, from what follows it.
#[inline(always)]
fn common_field(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    match *bytes {
        [first, len @ 1..0x80, ref rest @ ..] if first == tag => {
            rest.split_at_checked(usize::from(len))
        }
        [first, low @ 0x80..=0xff, high @ 1..0x80, ref rest @ ..] if first == tag => {
            rest.split_at_checked(usize::from(high) << 7 | usize::from(low & 0x7f))
        }
        _ => None,
    }
}

/// Reads one element; gives it and the offset behind it.
fn element(region: &[u8], at: usize) -> Result<(Element<'_>, usize), ScanReason> {
    match region.get(at) {
        Some(&CHANGE_TAG) => {}
        Some(&other) => return Err(ScanReason::Tag(other)),
        None => return Err(ScanReason::NoStore),
    }
    let (body_at, end) = bounded(region, at + 1, "the change")?;
    if end - at > MAX_CHANGE {
        return Err(ScanReason::TooLarge(end - at));
    }
    let body = region.get(..end).unwrap_or_default();
    let mut next = body_at;
    let store = bytes_field(body, &mut next, STORE_TAG, "store_key")?.unwrap_or_default();
    if store.is_empty() {
        return Err(ScanReason::NoStore);
    }
    let op = delete_field(body, &mut next)?;
    let key = bytes_field(body, &mut next, KEY_TAG, "key")?.unwrap_or_default();
    let value = bytes_field(body, &mut next, VALUE_TAG, "value")?.unwrap_or_default();
    if next != end {
        let tag = varint::read(body, next).map_or(0, |(tag, _)| tag);
        return Err(ScanReason::Field(tag));
    }
    let raw = body.get(at..).unwrap_or_default();
    Ok((Element { raw, store, op, key, value }, end))
}

/// Reads a length at `at`; gives where its bytes begin and end.
fn bounded(bytes: &[u8], at: usize, field: &'static str) -> Result<(usize, usize), ScanReason> {
    let (length, begin) = varint::read(bytes, at).ok_or(ScanReason::Varint(field))?;
    let left = bytes.len() - begin;
    match usize::try_from(length) {
        Ok(len) if len <= left => Ok((begin, begin + len)),
        _ => Err(ScanReason::Overrun { field, length, left }),
    }
}

fn bytes_field<'a>(
    body: &'a [u8],
    next: &mut usize,
    tag: u8,
    field: &'static str,
) -> Result<Option<&'a [u8]>, ScanReason> {
    if body.get(*next) != Some(&tag) {
        return Ok(None);
    }
    let (begin, end) = bounded(body, *next + 1, field)?;
    if begin == end {
        return Err(ScanReason::Default(field));
    }
    *next = end;
    Ok(body.get(begin..end))
}

fn delete_field(body: &[u8], next: &mut usize) -> Result<Op, ScanReason> {
    if body.get(*next) != Some(&DELETE_TAG) {
        return Ok(Op::Set);
    }
    match body.get(*next + 1) {
        Some(1) => {
            *next += 2;
            Ok(Op::Delete)
        }
        Some(0) => Err(ScanReason::Default("delete")),
        _ => Err(ScanReason::Varint("delete")),
    }
}

/// Appends a change in canonical form.
pub fn put_change(store: &str, op: Op, key: &[u8], value: &[u8], out: &mut impl BufMut) {
    let field = |len: usize| {
        if len == 0 { 0 } else { 1 + varint::len(len as u64) + len }
    };
    let delete = if op == Op::Delete { 2 } else { 0 };
    out.put_u8(CHANGE_TAG);
    varint::put((field(store.len()) + delete + field(key.len()) + field(value.len())) as u64, out);
    put_field(STORE_TAG, store.as_bytes(), out);
    if op == Op::Delete {
        out.put_slice(&[DELETE_TAG, 1]);
    }
    put_field(KEY_TAG, key, out);
    put_field(VALUE_TAG, value, out);
}

fn put_field(tag: u8, bytes: &[u8], out: &mut impl BufMut) {
    if !bytes.is_empty() {
        out.put_u8(tag);
        varint::put(bytes.len() as u64, out);
        out.put_slice(bytes);
    }
}

/// The index of a region: which stretches belong to which store and topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Distinct routes, in order of first appearance.
    pub routes: RouteTable,
    /// The stretches, covering the region without a hole.
    pub runs: Vec<Run>,
    /// Changes in the region.
    pub changes: u32,
}

/// Checks a region and builds its table. Accepts exactly the canonical encodings: fields in
/// ascending order, each at most once, defaults left out, shortest numbers, nothing unknown.
pub fn scan(changes: &[u8], topics: &TopicRules) -> Result<Table, ScanError> {
    let mut builder = TableBuilder::new();
    let mut elements = Elements::new(changes);
    while let Some(element) = elements.next() {
        let element = element?;
        builder.add(&element, topics).map_err(|reason| ScanError {
            change: builder.changes,
            offset: elements.at - element.raw.len(),
            reason,
        })?;
    }
    Ok(builder.finish())
}

/// Builds a table change by change.
#[derive(Debug, Default)]
pub(crate) struct TableBuilder {
    routes: Vec<Route>,
    runs: Vec<Run>,
    pub(crate) changes: u32,
    /// The store of the last change and the rules that can match in it.
    store: Arc<str>,
    rules: Vec<(Vec<u8>, Arc<str>)>,
}

impl TableBuilder {
    pub(crate) fn new() -> Self {
        Self { store: Arc::from(""), ..Self::default() }
    }

    /// Adds a change. On an error nothing was added.
    #[inline]
    pub(crate) fn add(
        &mut self,
        element: &Element<'_>,
        topics: &TopicRules,
    ) -> Result<(), ScanReason> {
        let same_store = self.store.as_bytes() == element.store && !self.runs.is_empty();
        if !(same_store && self.rules.is_empty()) {
            if !same_store {
                self.enter_store(element.store, topics)?;
            }
            self.enter_route(element.key)?;
        }
        if let Some(run) = self.runs.last_mut() {
            run.count += 1;
            // Frames are bounded far below 4 GiB, so lengths fit.
            run.bytes += element.raw.len() as u32;
        }
        self.changes += 1;
        Ok(())
    }

    fn enter_store(&mut self, store: &[u8], topics: &TopicRules) -> Result<(), ScanReason> {
        let text = std::str::from_utf8(store).map_err(|_| ScanReason::StoreUtf8)?;
        self.store = match self.routes.iter().find(|route| &*route.store == text) {
            Some(route) => route.store.clone(),
            None => text.into(),
        };
        self.rules.clear();
        if !topics.is_empty() {
            self.rules.extend(topics.of_store(text).map(|rule| (prefix(rule), topic(rule))));
        }
        Ok(())
    }

    fn enter_route(&mut self, key: &[u8]) -> Result<(), ScanReason> {
        let topic = self.rules.iter().find(|(prefix, _)| key.starts_with(prefix));
        let topic = topic.map_or("", |(_, topic)| topic);
        let current = self.runs.last().and_then(|run| self.routes.get(run.route as usize));
        if current.is_some_and(|r| Arc::ptr_eq(&r.store, &self.store) && &*r.topic == topic) {
            return Ok(());
        }
        let known = self
            .routes
            .iter()
            .position(|r| Arc::ptr_eq(&r.store, &self.store) && &*r.topic == topic);
        let route = match known {
            Some(route) => route,
            None if self.routes.len() >= MAX_ROUTES => return Err(ScanReason::TooManyRoutes),
            None => {
                self.routes.push(Route { store: self.store.clone(), topic: topic.into() });
                self.routes.len() - 1
            }
        };
        if self.runs.len() >= MAX_RUNS {
            return Err(ScanReason::TooManyRuns);
        }
        self.runs.push(Run { route: route as u32, count: 0, bytes: 0, skip: 0 });
        Ok(())
    }

    pub(crate) fn finish(self) -> Table {
        Table { routes: RouteTable::new(self.routes), runs: self.runs, changes: self.changes }
    }
}

fn prefix(rule: &TopicRule) -> Vec<u8> {
    rule.prefix.as_ref().map(|prefix| prefix.as_bytes().to_vec()).unwrap_or_default()
}

fn topic(rule: &TopicRule) -> Arc<str> {
    rule.topic.as_str().into()
}
