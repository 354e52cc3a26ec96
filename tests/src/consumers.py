"""Reads what agents have put into a bucket as people do: DuckDB by the views of `flowlogd athena`, and pyarrow. Ends with
an error where they differ from each other or from what a table in Athena expects; prints what each of them has read."""
import collections, glob, json, os, re, sys
import boto3, duckdb, pyarrow.csv, pyarrow.dataset, pyarrow.fs, pyarrow.parquet

endpoint, bucket, here, queries = sys.argv[1:]
logs = json.load(sys.stdin)
FLOW = ["srcaddr", "dstaddr", "protocol", "srcport", "dstport"]


def fetch():
    """All objects as files below `here`: this DuckDB has no extension for S3."""
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1",
        aws_access_key_id="test", aws_secret_access_key="test")
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
    for key in keys:
        os.makedirs(os.path.dirname(f"{here}/{key}"), exist_ok=True)
        client.download_file(bucket, key, f"{here}/{key}")
    return keys


def summary(rows):
    """Of status and flow, packets and bytes."""
    records, flows = 0, collections.defaultdict(lambda: [0, 0])
    for status, *flow, packets, size in rows:
        records += 1
        if status == "OK":
            flows[tuple(flow)][0] += packets
            flows[tuple(flow)][1] += size
    return {"records": records, "flows": [[*flow, *totals] for flow, totals in flows.items()]}


def view_of(log, name):
    """Makes the view that is printed, of the files."""
    text = log["duckdb"].replace("s3://" + bucket, here)
    database.execute(re.sub(r'VIEW "\w+"', f'VIEW "{name}"', text))
    return name


def of_duckdb(name):
    columns = ", ".join(["log_status", *FLOW, "packets", "bytes"])
    return summary(database.sql(f'SELECT {columns} FROM "{name}"').fetchall())


def of_pyarrow(log, keys):
    columns = ["log_status", *FLOW, "packets", "bytes"]
    if log["is_parquet"]:
        s3 = pyarrow.fs.S3FileSystem(endpoint_override=endpoint.removeprefix("http://"), scheme="http",
            access_key="test", secret_key="test", region="us-east-1")
        table = pyarrow.dataset.dataset([f"{bucket}/{key}" for key in keys], filesystem=s3).to_table(columns=columns)
    else:
        parts = []
        for key in keys:
            part = pyarrow.csv.read_csv(f"{here}/{key}", parse_options=pyarrow.csv.ParseOptions(delimiter=" "),
                convert_options=pyarrow.csv.ConvertOptions(null_values=["-"]))
            part = part.rename_columns([name.replace("-", "_") for name in part.column_names]).select(columns)
            parts.append(part.cast(pyarrow.schema([(name, "string" if name in ("log_status", "srcaddr", "dstaddr")
                else "int64") for name in columns])))
        table = pyarrow.concat_tables(parts)
    return summary(zip(*(table[name].to_pylist() for name in columns)))


def check_athena(log, name, keys):
    """Columns and partitions are those of the view; the place of every object is one that Athena looks at."""
    text = log["athena"]
    kinds = {"string": "VARCHAR", "int": "INTEGER", "bigint": "BIGINT"}
    columns = [(column, kinds[kind]) for column, kind in re.findall(r"^    `(\w+)` (\w+),?$", text, re.M)]
    partitions = re.search(r"PARTITIONED BY \((.*)\)", text)[1]
    columns += [(column, "VARCHAR") for column in re.findall(r"`([\w-]+)` string", partitions)]
    described = [row[:2] for row in database.sql(f'DESCRIBE "{name}"').fetchall()]
    assert described == columns, (described, columns)
    location = re.search(r"^LOCATION 's3://[^/]+/(.*)';?$", text, re.M)[1]
    template = re.search(r"'storage.location.template' = 's3://[^/]+/(.*)'", text)
    if template:
        values = {"account": re.search(r"account.values' = '(.*)'", text)[1],
            "aws_region": re.search(r"region.values' = '(.*)'", text)[1], "date": r"\d{4}/\d\d/\d\d", "hour": r"\d\d"}
        place = re.sub(r"\$\{(\w+)\}", lambda found: values[found[1]], template[1])
    else:
        place = location + "/".join(f"{name}=[^/]+" for name in re.findall(r"`([\w-]+)` string", partitions))
    for key in keys:
        assert key.startswith(location) and re.fullmatch(place + r"/[^/]+", key), (key, place)
    got = database.sql(f'SELECT DISTINCT {", ".join(chr(34) + c + chr(34) for c, _ in columns[-3:])} FROM "{name}"')
    assert all(all(row) for row in got.fetchall()), "a partition without a value"


def check_parquet(keys):
    """Codec, encodings and types: what all readers take."""
    for key in keys:
        metadata = pyarrow.parquet.read_metadata(f"{here}/{key}")
        assert (metadata.created_by, metadata.format_version) == ("flowlogd", "1.0"), metadata
        for group in range(metadata.num_row_groups):
            for at in range(metadata.num_columns):
                column = metadata.row_group(group).column(at)
                assert column.compression == "GZIP", column
                assert set(column.encodings) <= {"PLAIN", "PLAIN_DICTIONARY", "RLE"}, column
                assert column.statistics is not None, column
        for field in metadata.schema.to_arrow_schema():
            assert str(field.type) in ("int32", "int64", "string") and field.nullable, field


def check_same(one, other):
    """Row by row, both ways; partitions apart."""
    columns = ", ".join(f'"{name}"' for name, *_ in database.sql(f'DESCRIBE "{one}"').fetchall() if name != "date")
    for left, right in ((one, other), (other, one)):
        more = database.sql(f'SELECT {columns} FROM "{left}" EXCEPT ALL SELECT {columns} FROM "{right}"').fetchall()
        assert not more, f"{len(more)} rows of {left} are not in {right}: {more[:3]}"


def check_queries(text, parquet):
    """Each query of docs/queries has an answer, the same from both. What no traffic makes, a window that was not recorded
    whole, is added to both."""
    paths = sorted(glob.glob(f"{queries}/*.sql"))
    assert len(paths) >= 20, paths
    for view in (text, parquet):
        texts = [name for name, kind, *_ in database.sql(f'DESCRIBE "{view}"').fetchall() if kind == "VARCHAR"]
        dashes = ", ".join(f"'-' AS {name}" for name in texts if name not in ("interface_id", "log_status", "date"))
        database.execute(f"""CREATE TABLE "of {view}" AS SELECT * FROM "{view}" UNION ALL BY NAME SELECT
            {dashes}, 'eni-1' AS interface_id, 'SKIPDATA' AS log_status, 60 AS start, 119 AS "end" """)
    empty = []
    for path in paths:
        sql = open(path).read()
        assert sql.startswith("-- "), path
        answers = [database.sql(re.sub(r"\bvpc_flow_logs\b", f'"of {view}"', sql)).fetchall() for view in (text, parquet)]
        assert answers[0] == answers[1], (path, answers)
        if not answers[0]:
            empty.append(os.path.basename(path).removesuffix(".sql"))
    return empty


database = duckdb.connect()
keys = fetch()
readings = {}
for log in logs:
    folder = log["folder"]
    log["keys"] = [key for key in keys if key.startswith(folder + "/")]
    assert log["keys"], folder
    name = view_of(log, folder)
    check_athena(log, name, log["keys"])
    if log["is_parquet"]:
        check_parquet(log["keys"])
    readings[folder] = {"DuckDB": of_duckdb(name), "pyarrow": of_pyarrow(log, log["keys"])}
for log in logs:
    if not log["is_parquet"]:
        check_same(log["folder"], log["folder"].replace("text", "parquet"))
empty = check_queries("text-wide", "parquet-wide")
json.dump({"readings": readings, "empty": empty}, sys.stdout)
