//! Short names of what readers refuse with, for the counts. Each match names every variant, so that a new reason is counted.

use tiderace_wire::ControlError;
use tiderace_wire::batch::HeaderError;
use tiderace_wire::body::BodyError;

pub(crate) const fn control(error: ControlError) -> &'static str {
    match error {
        ControlError::Short => "Short",
        ControlError::Long => "Long",
        ControlError::Reserved => "Reserved",
        ControlError::Value => "Value",
        ControlError::Text => "Text",
        ControlError::TooLong => "TooLong",
    }
}

pub(crate) const fn header(error: HeaderError) -> &'static str {
    match error {
        HeaderError::Short => "Short",
        HeaderError::Long => "Long",
        HeaderError::Magic => "Magic",
        HeaderError::Version => "Version",
        HeaderError::ProducerChecksum => "ProducerChecksum",
        HeaderError::Attributes => "Attributes",
        HeaderError::RecordCount => "RecordCount",
        HeaderError::BodySize => "BodySize",
        HeaderError::Placed => "Placed",
        HeaderError::PlacementChecksum => "PlacementChecksum",
        HeaderError::Placement => "Placement",
        HeaderError::BodyChecksum => "BodyChecksum",
    }
}

pub(crate) const fn body(error: BodyError) -> &'static str {
    match error {
        BodyError::Archive => "Archive",
        BodyError::RecordCount => "RecordCount",
        BodyError::Flags => "Flags",
        BodyError::KeyTooLong => "KeyTooLong",
        BodyError::Time => "Time",
        BodyError::Coded => "Coded",
    }
}
