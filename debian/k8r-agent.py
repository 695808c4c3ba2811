#!/usr/bin/python3 -I
import sys

from k8r_agent.__main__ import main

sys.exit(main())
