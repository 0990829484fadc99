// Loaded before kinesis-local, which listens on every interface and has no setting for it.
'use strict';

const net = require('node:net');

const listen = net.Server.prototype.listen;

net.Server.prototype.listen = function (port, listening) {
  if (typeof port !== 'number' || typeof listening !== 'function') {
    throw new Error('loopback.cjs: kinesis-local calls listen() in another way than expected');
  }
  return listen.call(this, port, '127.0.0.1', listening);
};
