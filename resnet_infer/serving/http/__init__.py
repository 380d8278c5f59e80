"""Speak HTTP: limits, keys, requests, responses, the OpenAPI document and the web page."""
