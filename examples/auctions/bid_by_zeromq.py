"""Bid over ZeroMQ: `python -m auctions.bid_by_zeromq FOLDER AUCTION BIDDER CENTS`, with the folder of AUCTIONS_ZEROMQ."""

import sys
from typing import Any, cast

import zmq

folder, auction, bidder, cents = sys.argv[1:]
socket = cast("Any", zmq.Context().socket(zmq.REQ))
socket.connect(f"ipc://{folder}/requests")
bid = {"auction": auction, "bidder": bidder, "cents": int(cents)}
socket.send_json({"command": "raise.bid", "body": bid, "wait": 30})
print(socket.recv_string())
socket.close()
