"""The official Kinesis Client Library: the jars of its MultiLangDaemon."""
