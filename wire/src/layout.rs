//! How a fixed run of fields becomes bytes: each field has one little-endian form of alignment 1, a struct is its fields
//! back to back, reserved bytes are zero and are refused when they are not. Reads nothing that a length has not covered.

use crate::error::ErrorCode;
use core::fmt;
use tiderace_base::catalogue::Durability;
use tiderace_base::ids::{
    BootId, DiskId, MessageId, NodeId, PartitionIndex, ProducerId, ShardId, SlotId, StreamId,
    SubscriptionId, TenantId, ZoneId,
};
use tiderace_base::position::{
    CatalogueVersion, Epoch, Offset, ProducerEpoch, ProducerSeq, SlotSeq,
};
use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Why a control section or a control body is not one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ControlError {
    /// It ends before its last field: send all of it.
    Short,
    /// Bytes follow its last field: this version of the protocol has no more.
    Long,
    /// A reserved byte is not zero: it belongs to a later version.
    Reserved,
    /// A field holds a number that means nothing: look it up in the table of that field.
    Value,
    /// A text is not UTF-8.
    Text,
    /// A text or a list is longer than its limit.
    TooLong,
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Short => "the section ends before its last field",
            Self::Long => "bytes follow the section's last field",
            Self::Reserved => "a reserved byte is not zero",
            Self::Value => "a field holds a number that means nothing",
            Self::Text => "a text is not UTF-8",
            Self::TooLong => "a text or a list is longer than its limit",
        })
    }
}

impl core::error::Error for ControlError {}

/// A value with one form in bytes.
pub(crate) trait Field: Copy {
    /// The form: little-endian, of alignment 1.
    type Raw: FromBytes + IntoBytes + Immutable + KnownLayout + Unaligned + Copy;

    fn to_raw(self) -> Self::Raw;
    fn from_raw(raw: Self::Raw) -> Result<Self, ControlError>;
}

macro_rules! plain {
    ($($native:ty => $raw:ty),* $(,)?) => {$(
        impl Field for $native {
            type Raw = $raw;
            fn to_raw(self) -> $raw {
                <$raw>::from(self)
            }
            fn from_raw(raw: $raw) -> Result<Self, ControlError> {
                Ok(raw.into())
            }
        }
    )*};
}

plain!(u8 => u8, u16 => U16, u32 => U32, u64 => U64, u128 => U128);

macro_rules! newtype {
    ($($native:ty => $raw:ty),* $(,)?) => {$(
        impl Field for $native {
            type Raw = $raw;
            fn to_raw(self) -> $raw {
                <$raw>::from(self.get())
            }
            fn from_raw(raw: $raw) -> Result<Self, ControlError> {
                Ok(Self::new(raw.into()))
            }
        }
    )*};
}

newtype!(
    NodeId => U64, BootId => U64, DiskId => U128, ZoneId => U64, ShardId => U16, StreamId => U64,
    PartitionIndex => U32, SlotId => U16, TenantId => U32, ProducerId => U128, SubscriptionId => U32,
    Offset => U64, Epoch => U32, SlotSeq => U64, ProducerSeq => U64, ProducerEpoch => U32,
    CatalogueVersion => U64, MessageId => U64,
);

impl Field for bool {
    type Raw = u8;
    fn to_raw(self) -> u8 {
        u8::from(self)
    }
    fn from_raw(raw: u8) -> Result<Self, ControlError> {
        match raw {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(ControlError::Value),
        }
    }
}

impl Field for Durability {
    type Raw = u8;
    fn to_raw(self) -> u8 {
        self.code()
    }
    fn from_raw(raw: u8) -> Result<Self, ControlError> {
        Self::from_code(raw).ok_or(ControlError::Value)
    }
}

/// 255 leaves the choice to the zone.
impl Field for Option<Durability> {
    type Raw = u8;
    fn to_raw(self) -> u8 {
        self.map_or(u8::MAX, Durability::code)
    }
    fn from_raw(raw: u8) -> Result<Self, ControlError> {
        if raw == u8::MAX {
            return Ok(None);
        }
        Durability::from_raw(raw).map(Some)
    }
}

/// 0 is no error.
impl Field for Option<ErrorCode> {
    type Raw = U16;
    fn to_raw(self) -> U16 {
        self.map_or(0, ErrorCode::code).into()
    }
    fn from_raw(raw: U16) -> Result<Self, ControlError> {
        if raw.get() == 0 {
            return Ok(None);
        }
        ErrorCode::from_raw(raw).map(Some)
    }
}

/// One row of a published byte table. Offsets count from the start of the struct.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FieldLayout {
    /// The field's name.
    pub name: &'static str,
    /// Its type in this crate: a number, a name for one, or an enum with numbers.
    pub kind: &'static str,
    /// Where it begins.
    pub at: usize,
    /// How long it is.
    pub bytes: usize,
    /// How many reserved bytes follow it.
    pub reserved: usize,
    /// What it means.
    pub meaning: &'static str,
}

/// A field and the reserved bytes behind it.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Padded<R, const N: usize> {
    raw: R,
    pad: [u8; N],
}

impl<R, const N: usize> Padded<R, N> {
    pub(crate) fn close<F: Field<Raw = R>>(field: F) -> Self {
        Self {
            raw: field.to_raw(),
            pad: [0; N],
        }
    }

    pub(crate) fn open<F: Field<Raw = R>>(self) -> Result<F, ControlError> {
        // P-6
        if self.pad != [0; N] {
            return Err(ControlError::Reserved);
        }
        F::from_raw(self.raw)
    }
}

/// Takes `T` from the front of `bytes`.
pub(crate) fn take<T: FromBytes + KnownLayout + Immutable + Unaligned>(
    bytes: &[u8],
) -> Result<(&T, &[u8]), ControlError> {
    T::ref_from_prefix(bytes).map_err(|_| ControlError::Short)
}

/// A struct of plain fields, each optionally followed by reserved bytes, with its exact size; gives it `BYTES`,
/// `to_bytes`, `from_prefix` and `from_bytes`.
macro_rules! fixed {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident [$bytes:literal] {
            $( $(#[doc = $fdoc:literal])* $field:ident : $ty:ty $(, pad $pad:literal)? ; )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        $vis struct $name {
            $( $(#[doc = $fdoc])* pub $field: $ty, )*
        }

        const _: () = {
            use $crate::layout::{Field, Padded, take, ControlError};

            #[derive(
                Clone, Copy, ::zerocopy::FromBytes, ::zerocopy::IntoBytes, ::zerocopy::Immutable,
                ::zerocopy::KnownLayout, ::zerocopy::Unaligned,
            )]
            #[repr(C)]
            struct Raw {
                $( $field: Padded<<$ty as Field>::Raw, { 0 $(+ $pad)? }>, )*
            }

            assert!(size_of::<Raw>() == $bytes, concat!(stringify!($name), " has its published size"));

            #[allow(
                dead_code,
                unreachable_pub,
                reason = "the heads of open sections are private and are only read from the front"
            )]
            impl $name {
                /// Its size in bytes.
                pub const BYTES: usize = $bytes;

                /// Its published byte table.
                pub const LAYOUT: &'static [$crate::layout::FieldLayout] = &[$(
                    $crate::layout::FieldLayout {
                        name: stringify!($field),
                        kind: stringify!($ty),
                        at: ::core::mem::offset_of!(Raw, $field),
                        bytes: size_of::<<$ty as Field>::Raw>(),
                        reserved: 0 $(+ $pad)?,
                        meaning: concat!($($fdoc),*),
                    },
                )*];

                /// Its bytes.
                #[must_use]
                pub fn to_bytes(self) -> [u8; $bytes] {
                    let raw = Raw { $( $field: Padded::close(self.$field), )* };
                    ::zerocopy::transmute!(raw)
                }

                pub(crate) fn from_prefix(bytes: &[u8]) -> Result<(Self, &[u8]), ControlError> {
                    let (raw, rest) = take::<Raw>(bytes)?;
                    Ok((Self { $( $field: raw.$field.open()?, )* }, rest))
                }

                /// Reads exactly these bytes.
                ///
                /// # Errors
                /// When there are fewer or more bytes, a reserved one is not zero, or a number means nothing.
                pub fn from_bytes(bytes: &[u8]) -> Result<Self, ControlError> {
                    let (value, rest) = Self::from_prefix(bytes)?;
                    if rest.is_empty() { Ok(value) } else { Err(ControlError::Long) }
                }
            }
        };
    };
}
pub(crate) use fixed;

/// An enum whose variants have published numbers.
macro_rules! coded {
    (
        $(#[$meta:meta])*
        $vis:vis enum $name:ident : $int:ty {
            $( $(#[doc = $vdoc:literal])* $variant:ident = $code:literal ),* $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        $vis enum $name {
            $( $(#[doc = $vdoc])* $variant, )*
        }

        impl $name {
            /// Every variant, by number.
            pub const ALL: &'static [Self] = &[$( Self::$variant ),*];

            /// Its published number.
            #[must_use]
            pub const fn code(self) -> $int {
                match self {
                    $( Self::$variant => $code, )*
                }
            }

            /// The variant with this number.
            #[must_use]
            pub const fn from_code(code: $int) -> Option<Self> {
                match code {
                    $( $code => Some(Self::$variant), )*
                    _ => None,
                }
            }

            /// What it means.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self {
                    $( Self::$variant => concat!($($vdoc),*).trim_ascii(), )*
                }
            }

            /// Its name in the published tables.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $( Self::$variant => stringify!($variant), )*
                }
            }
        }

        impl $crate::layout::Field for $name {
            type Raw = <$int as $crate::layout::Field>::Raw;
            fn to_raw(self) -> Self::Raw {
                $crate::layout::Field::to_raw(self.code())
            }
            fn from_raw(raw: Self::Raw) -> Result<Self, $crate::layout::ControlError> {
                let code = <$int as $crate::layout::Field>::from_raw(raw)?;
                Self::from_code(code).ok_or($crate::layout::ControlError::Value)
            }
        }
    };
}
pub(crate) use coded;
