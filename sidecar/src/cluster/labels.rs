//! Labels: the tags of a node, and the protocol that it claims.
//!
//! ```text
//! tags, claim ─▶ Labels ─▶ tags on the wire, one of them `concertina.protocol=h2c` ─▶ Labels ─▶ tags, claim
//! ```
//!
//! An advert has no room for a field that nodes of before do not know: they would drop it, and with it all that came in the same
//! datagram. Tags they do know. So the claim travels as a tag; nodes of before show it, and pass it on as it came.

use feed::{EndpointProtocol, Tag, Tags, tag::TagError};
use serde::{Deserialize, Serialize};

/// The key of the tag that the claim is on the wire.
const KEY: &str = "concertina.protocol";

/// What an operator says of a node. With its claim it has at most as many tags as a node may have, and as long ones.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Tags", into = "Tags")]
pub struct Labels {
    tags: Tags,
    protocol: Option<EndpointProtocol>,
}

/// Why labels are not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelsError {
    /// Too many tags, or too long ones.
    #[error(transparent)]
    Tags(#[from] TagError),
    /// The same, beside the claim.
    #[error("{0}: the claim of --protocol counts as a tag, {KEY}={1}")]
    NoRoom(TagError, EndpointProtocol),
    /// A tag that says what a flag says.
    #[error("the tag {KEY} is taken by the claim of a protocol: expected --protocol (CONCERTINA_PROTOCOL)")]
    Taken,
}

impl Labels {
    /// These tags, and this claim.
    ///
    /// # Errors
    /// Tags for which there is no room beside the claim, or one that is taken by it.
    pub fn new(tags: Tags, protocol: Option<EndpointProtocol>) -> Result<Self, LabelsError> {
        if tags.iter().any(|(key, _)| key == KEY) {
            return Err(LabelsError::Taken);
        }
        if let Some(protocol) = protocol {
            with_claim(&tags, protocol).map_err(|error| LabelsError::NoRoom(error, protocol))?;
        }
        Ok(Self { tags, protocol })
    }

    /// The tags, without the claim.
    pub fn tags(&self) -> &Tags {
        &self.tags
    }

    /// What the node says that its role's process speaks.
    pub fn protocol(&self) -> Option<EndpointProtocol> {
        self.protocol
    }

    /// The same claim beside these tags with others set and some deleted.
    ///
    /// # Errors
    /// More or longer tags than there is room for, or one that is taken.
    pub fn changed(&self, set: Tags, delete: &[String]) -> Result<Self, LabelsError> {
        Self::new(self.tags.changed(set, delete)?, self.protocol)
    }
}

fn with_claim(tags: &Tags, protocol: EndpointProtocol) -> Result<Tags, TagError> {
    let claim: Tag = format!("{KEY}={protocol}").parse()?;
    tags.changed(Tags::new([claim])?, &[])
}

impl From<Tags> for Labels {
    /// As they came. A claim that is not understood stays a tag: it is not this node's to judge.
    fn from(wire: Tags) -> Self {
        let said = wire.iter().find(|(key, _)| *key == KEY);
        let protocol = said.and_then(|(_, value)| value.parse().ok());
        let without = protocol.and_then(|_| wire.changed(Tags::default(), &[KEY.into()]).ok());
        Self { tags: without.unwrap_or(wire), protocol }
    }
}

impl From<Labels> for Tags {
    fn from(labels: Labels) -> Self {
        // There is room: it was looked at, or it came so.
        let with_claim = labels.protocol.and_then(|protocol| with_claim(&labels.tags, protocol).ok());
        with_claim.unwrap_or(labels.tags)
    }
}

#[cfg(test)]
mod tests {
    use feed::tag::{TAGS_BYTES_MAX, TAGS_MAX};

    use super::*;

    fn tags(text: &str) -> Tags {
        Tags::new(text.split(',').map(|tag| tag.parse().unwrap())).unwrap()
    }

    fn encode<T: Serialize>(value: &T) -> Vec<u8> {
        postcard::to_allocvec(value).unwrap()
    }

    #[test]
    fn labels_without_a_claim_are_the_bytes_of_their_tags() {
        for told in [Tags::default(), tags("a=b,zone=c")] {
            let labels = Labels::new(told.clone(), None).unwrap();
            assert_eq!(encode(&labels), encode(&told));
            assert_eq!(postcard::from_bytes::<Labels>(&encode(&told)), Ok(labels));
        }
    }

    #[test]
    fn a_claim_is_a_tag_to_nodes_that_do_not_know_claims_and_comes_back_from_them() {
        for protocol in EndpointProtocol::ALL {
            let labels = Labels::new(tags("a=b,zone=c"), Some(protocol)).unwrap();
            let former: Tags = postcard::from_bytes(&encode(&labels)).unwrap();
            assert_eq!(former.to_string(), format!("a=b,concertina.protocol={protocol},zone=c"));
            let back: Labels = postcard::from_bytes(&encode(&former)).unwrap();
            assert_eq!((back.tags(), back.protocol()), (&tags("a=b,zone=c"), Some(protocol)));
            assert_eq!(back, labels);
        }
    }

    #[test]
    fn a_claim_that_is_not_understood_is_passed_on_as_it_came() {
        let later = tags("concertina.protocol=h3,zone=c");
        let labels: Labels = postcard::from_bytes(&encode(&later)).unwrap();
        assert_eq!((labels.tags(), labels.protocol()), (&later, None));
        assert_eq!(encode(&labels), encode(&later));
    }

    #[test]
    fn a_claim_takes_the_room_of_a_tag() {
        let many = |n: usize| tags(&(0..n).map(|i| format!("k{i}=")).collect::<Vec<_>>().join(","));
        let claiming = |tags: Tags| Labels::new(tags, Some(EndpointProtocol::H2c));
        assert!(Labels::new(many(TAGS_MAX), None).is_ok() && claiming(many(TAGS_MAX - 1)).is_ok());
        let error = claiming(many(TAGS_MAX)).unwrap_err().to_string();
        assert!(error.starts_with("17 tags, over 16: the claim of --protocol counts as a tag"), "{error}");
        let claim_bytes = ",concertina.protocol=h2c".len();
        let long = |n: usize| tags(&format!("a={0},b={0},c={1}", "v".repeat(100), "v".repeat(n - 208)));
        assert!(claiming(long(TAGS_BYTES_MAX - claim_bytes)).is_ok());
        let error = claiming(long(TAGS_BYTES_MAX - claim_bytes + 1)).unwrap_err().to_string();
        assert!(error.starts_with("tags of 257 bytes"), "{error}");
    }

    #[test]
    fn a_change_of_tags_leaves_the_claim_as_it_is() {
        let labels = Labels::new(tags("a=b"), Some(EndpointProtocol::H2)).unwrap();
        let changed = labels.changed(tags("c=d"), &["a".into(), KEY.into()]).unwrap();
        assert_eq!(changed, Labels::new(tags("c=d"), Some(EndpointProtocol::H2)).unwrap());
        let taken = labels.changed(tags("concertina.protocol=http"), &[]).unwrap_err();
        assert_eq!(taken, LabelsError::Taken);
        assert!(taken.to_string().contains("expected --protocol (CONCERTINA_PROTOCOL)"), "{taken}");
    }
}
