//! A table in Athena, as the user guide makes them.
#![forbid(unsafe_code)]

use super::{Objects, quoted};
use crate::flow_log::FileFormat;
use crate::format::Type;

const PARQUET: &str = "ROW FORMAT SERDE 'org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe'
STORED AS
    INPUTFORMAT 'org.apache.hadoop.hive.ql.io.parquet.MapredParquetInputFormat'
    OUTPUTFORMAT 'org.apache.hadoop.hive.ql.io.parquet.MapredParquetOutputFormat'\n";
const TEXT: &str = "ROW FORMAT DELIMITED FIELDS TERMINATED BY ' '\n";

pub(super) fn ddl(objects: &Objects) -> String {
    let Objects { name, format, layout, base, account_id, region } = objects;
    let column = |field: &&crate::format::Field| {
        let kind = match field.kind {
            Type::Text => "string",
            Type::Int32 => "int",
            Type::Int64 => "bigint",
        };
        format!("    `{}` {kind}", field.column())
    };
    let columns: Vec<String> = format.fields().iter().map(column).collect();
    let is_text = layout.file_format == FileFormat::PlainText;
    // No field has such a name, as region is one: AWS's own example leaves that column out.
    let (mut partitions, is_hive) = match layout.hive_compatible_partitions {
        true => (vec!["aws-account-id", "aws-service", "aws-region", "year", "month", "day"], true),
        false => (vec!["account", "aws_region", "date"], false),
    };
    if layout.per_hour_partition {
        partitions.push("hour");
    }
    let partitions: Vec<String> = partitions.iter().map(|name| format!("`{name}` string")).collect();
    let mut properties: Vec<(String, String)> = Vec::new();
    let mut property = |key: &str, value: &str| properties.push((key.to_owned(), value.to_owned()));
    if is_text {
        property("skip.header.line.count", "1");
    }
    if !is_hive {
        let hour = if layout.per_hour_partition { "/${hour}" } else { "" };
        property("projection.enabled", "true");
        property("projection.account.type", "enum");
        property("projection.account.values", account_id);
        property("projection.aws_region.type", "enum");
        property("projection.aws_region.values", region);
        property("projection.date.type", "date");
        property("projection.date.format", "yyyy/MM/dd");
        property("projection.date.range", "NOW-3YEARS,NOW");
        if layout.per_hour_partition {
            property("projection.hour.type", "integer");
            property("projection.hour.range", "00,23");
            property("projection.hour.digits", "2");
        }
        let template = format!("{base}${{account}}/vpcflowlogs/${{aws_region}}/${{date}}{hour}");
        property("storage.location.template", &template);
    }
    let properties: Vec<String> =
        properties.iter().map(|(key, value)| format!("    {} = {}", quoted(key), quoted(value))).collect();
    let mut text = if is_hive {
        "-- New days are found by MSCK REPAIR TABLE.\n".to_owned()
    } else {
        "-- More accounts or regions: add them to the values, with commas.\n".to_owned()
    };
    text += &format!(
        "CREATE EXTERNAL TABLE IF NOT EXISTS `{name}` (\n{}\n)\nPARTITIONED BY ({})\n{}LOCATION {}\n",
        columns.join(",\n"),
        partitions.join(", "),
        if is_text { TEXT } else { PARQUET },
        quoted(base),
    );
    if !properties.is_empty() {
        text += &format!("TBLPROPERTIES (\n{}\n)", properties.join(",\n"));
    }
    text = text.trim_end().to_owned() + ";\n";
    if is_hive {
        text += &format!("MSCK REPAIR TABLE `{name}`;\n");
    }
    text
}
