# SPDX-License-Identifier: Apache-2.0
"""``python -m tools.verify``."""

from tools.verify import main

if __name__ == "__main__":
    main()
