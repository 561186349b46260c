#!/bin/sh
# test_damage with 10,000 flipped bits, 1,000 truncations and 1,000 zeroed pages on each file.
exec "${builddir:-.}/tests/test_damage" 10000 1000 1000
