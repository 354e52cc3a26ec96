//! A field as a column: AWS's names and types.
#![forbid(unsafe_code)]

use std::sync::Arc;

use ::parquet::basic::{ConvertedType, LogicalType, Repetition, Type as Physical};
use ::parquet::errors::Result;
use ::parquet::schema::types::Type as Schema;

use crate::format::{Format, Type};

/// Every column may be null: no reader minds, and AWS's numbers are.
pub(super) fn schema(format: &Format) -> Result<Schema> {
    let columns = format.fields().iter().map(|field| {
        let name = field.column();
        let column = match field.kind {
            Type::Int32 => Schema::primitive_type_builder(&name, Physical::INT32),
            Type::Int64 => Schema::primitive_type_builder(&name, Physical::INT64),
            Type::Text => Schema::primitive_type_builder(&name, Physical::BYTE_ARRAY)
                .with_converted_type(ConvertedType::UTF8)
                .with_logical_type(Some(LogicalType::String)),
        };
        column.with_repetition(Repetition::OPTIONAL).build().map(Arc::new)
    });
    Schema::group_type_builder("flow_log").with_fields(columns.collect::<Result<_>>()?).build()
}
