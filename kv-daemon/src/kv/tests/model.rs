//! The store as one would write it on a napkin: a sorted map and the rules, nothing shared, nothing
//! clever. What the real store does is compared with this.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::kv::command::{Command, Done, Operation, Reply, Test};
use crate::kv::request::{ListQuery, ListShape, Listed, Record};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Model {
    pub records: BTreeMap<Bytes, Record>,
    pub revision: u64,
}

impl Model {
    pub fn apply(&mut self, command: &Command) -> Reply {
        let current = |key: &Bytes| self.records.get(key).map(|record| record.mod_revision);
        let failed = command.compares.iter().find(|compare| {
            let holds = match (&compare.test, current(&compare.key)) {
                (Test::Exists, it) => it.is_some(),
                (Test::Absent, it) => it.is_none(),
                (Test::RevisionAmong(these), Some(it)) => these.contains(&it),
                (Test::RevisionAmong(_), None) => false,
                (Test::RevisionNotAmong(these), Some(it)) => !these.contains(&it),
                (Test::RevisionNotAmong(_), None) => true,
            };
            !holds
        });
        let current = failed.map(|compare| current(&compare.key));
        let operations = if failed.is_some() { &command.otherwise } else { &command.then };

        let revision = self.revision + 1;
        let done = operations.iter().map(|operation| self.operate(operation, revision)).collect();
        match current {
            None => Reply::Succeeded { revision: self.revision, done },
            Some(current) => Reply::ConditionFailed { current, revision: self.revision, done },
        }
    }

    fn operate(&mut self, operation: &Operation, revision: u64) -> Done {
        match operation {
            Operation::Put { key, value } => {
                self.revision = revision;
                let old = self.records.get(key);
                let record = Record {
                    value: value.clone(),
                    create_revision: old.map_or(revision, |old| old.create_revision),
                    mod_revision: revision,
                    version: old.map_or(1, |old| old.version + 1),
                };
                let (created, version) = (old.is_none(), record.version);
                self.records.insert(key.clone(), record);
                Done::Put { created, version }
            }
            Operation::Delete { key } => {
                let deleted = u64::from(self.records.remove(key).is_some());
                if deleted == 1 {
                    self.revision = revision;
                }
                Done::Deleted { deleted }
            }
        }
    }

    /// A page, without the bound on its bytes.
    pub fn list(&self, query: &ListQuery) -> Listed {
        let is_count = query.shape == ListShape::Count;
        let mut items: Vec<(Bytes, Record)> = self
            .records
            .iter()
            .filter(|(key, _)| key.starts_with(&query.prefix) && query.start <= **key)
            .filter(|(key, _)| is_count || query.after.as_ref().is_none_or(|after| after < *key))
            .map(|(key, record)| (key.clone(), record.clone()))
            .collect();
        let mut listed = Listed { revision: self.revision, ..Listed::default() };
        listed.count = items.len() as u64;
        if is_count {
            return listed;
        }
        if (query.limit as usize) < items.len() {
            items.truncate(query.limit as usize);
            listed.count = items.len() as u64;
            listed.next = items.last().map(|(key, _)| key.clone());
        }
        if query.shape == ListShape::Keys {
            items.iter_mut().for_each(|(_, record)| record.value = Bytes::new());
        }
        listed.items = items;
        listed
    }

    pub fn bytes(&self) -> u64 {
        self.records.iter().map(|(key, record)| (key.len() + record.value.len()) as u64).sum()
    }
}
