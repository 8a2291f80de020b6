"""Commands: parse, call, report. No arithmetic."""
