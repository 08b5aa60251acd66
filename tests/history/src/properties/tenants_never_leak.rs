//! Tenant leak: a reader whose identity is one tenant's is neither told where a stream of another tenant stands nor given
//! anything of it. A reader or a stream without a tenant says nothing. The product does not know identities yet; planted
//! histories keep this checker until it does.
//!
//! An observation costs a search among readers and one among streams.

use std::collections::BTreeMap;

use tiderace_base::collections::Map;
use tiderace_base::ids::PartitionKey;

use super::Property;
use crate::knowledge::Knowledge;
use crate::observation::{Kind, Observation, Reader};

/// What belongs to whom.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    streams: BTreeMap<u64, u32>,
    readers: Map<Reader, u32>,
}

impl Checker {
    fn check(&self, reader: Reader, partition: PartitionKey) -> Result<(), String> {
        let owners = self
            .readers
            .get(&reader)
            .zip(self.streams.get(&partition.stream.get()));
        match owners {
            Some((own, other)) if own != other => Err(format!(
                "{reader:?} of tenant {own} learns of {partition}, which is tenant {other}'s"
            )),
            _ => Ok(()),
        }
    }
}

impl Property for Checker {
    fn name(&self) -> &'static str {
        "tenants_never_leak"
    }

    fn judges(&self) -> &'static [Kind] {
        &[Kind::Positioned, Kind::Delivered]
    }

    fn follows(&self) -> &'static [Kind] {
        &[Kind::StreamOwned, Kind::ReaderOwned]
    }

    fn is_blind(&self) -> bool {
        self.streams.is_empty() || self.readers.is_empty()
    }

    fn observe(&mut self, observation: &Observation, _: &Knowledge) -> Result<(), String> {
        match observation {
            Observation::StreamOwned { stream, tenant } => {
                self.streams.insert(*stream, *tenant);
                Ok(())
            }
            Observation::ReaderOwned { reader, tenant } => {
                self.readers.insert(*reader, *tenant);
                Ok(())
            }
            Observation::Positioned {
                reader, partition, ..
            }
            | Observation::Delivered {
                reader, partition, ..
            } if !self.is_blind() => self.check(*reader, *partition),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::planted::*;
    use super::*;

    fn owned(reader: u64, tenant: u32) -> [Observation; 2] {
        let stream = PARTITION.stream.get();
        [
            Observation::StreamOwned { stream, tenant: 1 },
            Observation::ReaderOwned {
                reader: Reader(reader),
                tenant,
            },
        ]
    }

    #[test]
    fn what_another_tenant_learns_is_noticed() {
        for leak in [positioned(1, 0), delivered(1, 0, 0, 1)] {
            let other = [&owned(1, 2)[..], std::slice::from_ref(&leak)].concat();
            assert_refuses_the_last(&mut Checker::default(), &other);
            let own = [&owned(1, 1)[..], &[leak]].concat();
            assert_accepts(&mut Checker::default(), &own);
        }
    }

    #[test]
    fn whoever_has_no_tenant_is_not_held_to_one() {
        let history = [&owned(1, 2)[..], &[delivered(2, 0, 0, 1)]].concat();
        assert_accepts(&mut Checker::default(), &history);
    }
}
