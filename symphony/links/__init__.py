"""Say how nodes talk and whose clock says what: frames, records, messages, handshake, clocks (docs/cluster-wire.md).

Pure: no socket, no clock, no chance; time and nonces are arguments. What the messages mean is decided above.
"""
