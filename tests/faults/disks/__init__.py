"""Disks that fail, fill up, or take their time, under real engines."""
