"""The commands of this project: `python examples/triggers/manage.py chappe run`, `… runserver`, `… migrate`."""

import os
import sys
from pathlib import Path

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "triggers.settings")
    execute_from_command_line(sys.argv)
