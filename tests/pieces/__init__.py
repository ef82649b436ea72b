"""A plug-in as somebody else would write it: components made from the interfaces of `metalearn_cli.core` alone.

Tests install it by an entry point, train every piece of it and hold it to what the shipped components are held to.
"""
