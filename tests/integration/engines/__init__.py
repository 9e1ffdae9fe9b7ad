# SPDX-License-Identifier: Apache-2.0
"""Container engines that drive kiln, each with everything it keeps in a directory of its own."""
