"""An S3 client's own run against the server at ADDRESS: buckets, objects, multipart, ranges, copies, listings, deletions."""

import hashlib
import io
import os
import sys

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

client = boto3.client(
    "s3",
    endpoint_url=f"http://{sys.argv[1]}",
    region_name="us-east-1",
    aws_access_key_id="test",
    aws_secret_access_key="test",
    config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 0}, proxies={}),
)
done = 0


def check(name, holds):
    global done
    assert holds, name
    done += 1


client.create_bucket(Bucket="shelf")
check("listed", [bucket["Name"] for bucket in client.list_buckets()["Buckets"]] == ["shelf"])
for size in (0, 1, 70_000, 5 << 20):
    body = os.urandom(size)
    tag = client.put_object(Bucket="shelf", Key=f"a/{size}", Body=body, Metadata={"Size": str(size)})["ETag"]
    check("tag", tag.strip('"') == hashlib.md5(body).hexdigest())
    got = client.get_object(Bucket="shelf", Key=f"a/{size}")
    check("body", got["Body"].read() == body and got["Metadata"] == {"size": str(size)})
    check("head", client.head_object(Bucket="shelf", Key=f"a/{size}")["ContentLength"] == size)

body = os.urandom(11 << 20)
config = TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20, max_concurrency=4)
client.upload_fileobj(io.BytesIO(body), "shelf", "parts", Config=config)
into = io.BytesIO()
client.download_fileobj("shelf", "parts", into, Config=config)
check("parts", into.getvalue() == body)
part = client.get_object(Bucket="shelf", Key="parts", Range="bytes=6000000-6000999")
check("range", part["Body"].read() == body[6_000_000:6_001_000] and part["ResponseMetadata"]["HTTPStatusCode"] == 206)
client.copy_object(Bucket="shelf", Key="copy", CopySource={"Bucket": "shelf", "Key": "a/70000"})
check("copy", client.head_object(Bucket="shelf", Key="copy")["ContentLength"] == 70_000)
for number in range(30):
    client.put_object(Bucket="shelf", Key=f"many/{number:03} ü&?#", Body=b"x")
pages = client.get_paginator("list_objects_v2").paginate(Bucket="shelf", Prefix="many/", PaginationConfig={"PageSize": 12})
keys = [item["Key"] for page in pages for item in page["Contents"]]
check("listing", keys == [f"many/{number:03} ü&?#" for number in range(30)])
gone = client.delete_objects(Bucket="shelf", Delete={"Objects": [{"Key": key} for key in keys]})
check("deleted", len(gone["Deleted"]) == 30)
try:
    client.get_object(Bucket="shelf", Key="none")
    check("absent", False)
except ClientError as error:
    check("absent", error.response["Error"]["Code"] == "NoSuchKey" and error.response["ResponseMetadata"]["HTTPStatusCode"] == 404)
try:
    client.head_object(Bucket="shelf", Key="none")
    check("absent head", False)
except ClientError as error:
    check("absent head", error.response["ResponseMetadata"]["HTTPStatusCode"] == 404)
print("passed", done)
