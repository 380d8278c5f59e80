"""Choose the runtime that answers fastest on this machine, and prove it before its answers count."""
