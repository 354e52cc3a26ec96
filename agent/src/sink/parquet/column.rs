//! A field as a column: AWS's names and types.
#![forbid(unsafe_code)]

use std::sync::Arc;

use ::parquet::basic::{ConvertedType, LogicalType, Repetition, Type as Physical};
use ::parquet::errors::Result;
use ::parquet::schema::types::Type;

use crate::format::{Field, Format};

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Int32,
    Int64,
    Text,
}

impl Kind {
    pub(super) fn of(field: Field) -> Self {
        match field {
            Field::Version | Field::SrcPort | Field::DstPort | Field::Protocol => Self::Int32,
            Field::Packets | Field::Bytes | Field::Start | Field::End => Self::Int64,
            Field::AccountId
            | Field::InterfaceId
            | Field::SrcAddr
            | Field::DstAddr
            | Field::Action
            | Field::LogStatus => Self::Text,
        }
    }
}

/// Every column may be null: no reader minds, and AWS's are said to be.
pub(super) fn schema(format: &Format) -> Result<Type> {
    let columns = format.fields().iter().zip(format.names()).map(|(field, name)| {
        let name = name.replace('-', "_");
        let column = match Kind::of(*field) {
            Kind::Int32 => Type::primitive_type_builder(&name, Physical::INT32),
            Kind::Int64 => Type::primitive_type_builder(&name, Physical::INT64),
            Kind::Text => Type::primitive_type_builder(&name, Physical::BYTE_ARRAY)
                .with_converted_type(ConvertedType::UTF8)
                .with_logical_type(Some(LogicalType::String)),
        };
        column.with_repetition(Repetition::OPTIONAL).build().map(Arc::new)
    });
    Type::group_type_builder("flow_log").with_fields(columns.collect::<Result<_>>()?).build()
}
