// An AMQP 1.0 peer that behaves as a topic of Azure Service Bus as far as the adapter depends on it:
// duplicate detection by MessageId, subscriptions with peek-lock, dead-letter queues, scheduled
// messages. It is for tests. What it accepted survives kill -9.
//
// node peer.js '{"port": 5672, "journal": "FILE", "topic": "NAME", "window": MS, "lock": MS,
//   "maxDeliveries": N, "subscriptions": {"NAME": "SUBJECT"}}'
//
// A subscription receives the messages with its subject, or all if its subject is empty. With a
// window of 0, duplicate detection is off. Probes, which are messages with the subject "probe" and
// have a subscription of that name, are counted apart. A control port takes POST /clock/MS, which sets the clock forward, POST /fault/NAME, which arms a fault
// once, and GET /counts. The faults:
//   lose-answer        store what is published next, and cut the connection instead of answering
//   lose-publish       cut the connection instead of storing what is published next
//   refuse-publish     reject what is published next
//   swallow-settle     settle the next message, and never answer
//   lose-settle        cut the connection instead of settling the next message
'use strict';
const crypto = require('crypto');
const fs = require('fs');
const http = require('http');
const rhea = require('rhea');
const { message, types } = rhea;

const config = JSON.parse(process.argv[2]);
const batchFormat = 0x80013700;

// The state. Only apply changes it, with an operation that is in the journal.
let clock = 0;
let sequence = 0;
const seen = new Map(); // the time at which a message id was first published
const queues = new Map(); // by address, in lower case
const counts = { published: 0, dropped: 0, renewed: 0, dead: 0 }; // without probes

// Locks, links and faults do not survive a restart.
const locked = new Map(); // {queue, entry} by lock token
const faults = new Set();

const now = () => Date.now() + clock;
const subscription = (name) => `${config.topic}/subscriptions/${name}`.toLowerCase();
for (const name of Object.keys(config.subscriptions)) {
  const address = subscription(name);
  const dead = { address: `${address}/$deadletterqueue`, entries: new Map(), links: new Set() };
  queues.set(dead.address, dead);
  queues.set(address, { address, entries: new Map(), links: new Set(), dead });
}

function apply(op) {
  const queue = queues.get(op.queue);
  const add = (to, entry) => to.entries.set(++sequence, { ...entry, seq: sequence, count: 0 });
  if (op.clock) clock += op.clock;
  if (op.raw) {
    seen.set(op.id, op.at);
    for (const [name, subject] of Object.entries(config.subscriptions)) {
      if (subject === '' || subject === op.subject) {
        add(queues.get(subscription(name)), { raw: op.raw, at: op.at, due: op.due });
      }
    }
  }
  if (op.count) queue.entries.get(op.seq).count += 1;
  if (op.dead) add(queue.dead, { ...queue.entries.get(op.seq), lock: undefined, dead: op.dead });
  if (op.gone) queue.entries.delete(op.seq);
}

if (fs.existsSync(config.journal)) {
  const text = fs.readFileSync(config.journal);
  const end = text.lastIndexOf('\n') + 1; // a line after it was not written to its end
  fs.truncateSync(config.journal, end);
  text.toString('utf8', 0, end).split('\n').slice(0, -1).forEach((line) => apply(JSON.parse(line)));
}
const journal = fs.openSync(config.journal, 'a');
function change(op) {
  fs.writeSync(journal, `${JSON.stringify(op)}\n`);
  apply(op);
}

function publish(m) {
  const counted = m.subject === 'probe' ? 0 : 1;
  counts.published += counted;
  const first = seen.get(m.message_id);
  if (first !== undefined && now() - first < config.window) {
    counts.dropped += counted; // and the publisher is not told
    return sequence;
  }
  const due = Number((m.message_annotations || {})['x-opt-scheduled-enqueue-time'] || 0);
  change({ raw: message.encode(m).toString('base64'), id: m.message_id, subject: m.subject, at: now(), due });
  pumpSoon();
  return sequence;
}

function encode(entry, until) {
  const m = message.decode(Buffer.from(entry.raw, 'base64'));
  m.delivery_count = entry.count;
  m.message_annotations = {
    ...m.message_annotations,
    'x-opt-sequence-number': types.wrap_long(entry.seq),
    'x-opt-enqueued-time': types.wrap_timestamp(entry.at),
    'x-opt-locked-until': types.wrap_timestamp(until),
  };
  m.application_properties = { ...m.application_properties, ...entry.dead };
  return message.encode(m);
}

// The client reads some fields of a token in the other byte order: a token is the same both ways.
function newToken() {
  const t = crypto.randomBytes(16);
  [t[3], t[2], t[5], t[7]] = [t[0], t[1], t[4], t[6]];
  return t;
}

// pump delivers what is due. It must not run twice before rhea has used up the credit of the links.
function pump() {
  pumping = false;
  for (const queue of queues.values()) {
    const credits = new Map([...queue.links].map((link) => [link, link.sendable() ? link.credit : 0]));
    for (const entry of queue.entries.values()) {
      if (entry.lock || entry.due > now()) continue;
      const link = [...credits.keys()].find((l) => credits.get(l) > 0);
      if (!link) break;
      credits.set(link, credits.get(link) - 1);
      const token = newToken();
      entry.lock = { token: token.toString('hex'), until: now() + config.lock };
      locked.set(entry.lock.token, { queue, entry });
      link.send(encode(entry, entry.lock.until), token, 0);
    }
  }
}
let pumping = false;
function pumpSoon() {
  if (!pumping) setImmediate(pump);
  pumping = true;
}

function unlock(entry) {
  locked.delete(entry.lock.token);
  entry.lock = undefined;
  pumpSoon();
}
const outcomes = {
  completed(queue, entry) {
    change({ queue: queue.address, seq: entry.seq, gone: true });
  },
  abandoned(queue, entry) {
    change({ queue: queue.address, seq: entry.seq, count: true });
    if (queue.dead && entry.count >= config.maxDeliveries) {
      outcomes.suspended(queue, entry, { DeadLetterReason: 'MaxDeliveryCountExceeded' });
    }
  },
  released() {},
  suspended(queue, entry, reason) {
    change({ queue: queue.address, seq: entry.seq, dead: reason, gone: true });
    counts.dead += 1;
  },
};
function settle(token, outcome, reason) {
  const held = locked.get(token);
  if (!held) return false;
  unlock(held.entry);
  outcomes[outcome](held.queue, held.entry, reason);
  return true;
}
setInterval(() => {
  for (const [token, { entry }] of locked) {
    if (entry.lock.until <= now()) settle(token, 'abandoned');
  }
  pumpSoon();
}, 10);

// Requests to $cbs and to the entities' $management: each returns a status and a body.
const token = (buffer) => Buffer.from(buffer).toString('hex');
const requests = {
  'put-token': () => [202],
  'com.microsoft:renew-lock': (queue, body) => {
    const held = body['lock-tokens'].map((t) => locked.get(token(t)));
    if (held.includes(undefined)) return [410];
    counts.renewed += held.length;
    held.forEach(({ entry }) => { entry.lock.until = now() + config.lock; });
    return [200, { expirations: types.wrap_array(held.map(({ entry }) => entry.lock.until), 0x83) }];
  },
  'com.microsoft:update-disposition': (queue, body) => {
    const reason = { DeadLetterReason: body['deadletter-reason'],
      DeadLetterErrorDescription: body['deadletter-description'], ...body['properties-to-modify'] };
    return [body['lock-tokens'].every((t) => settle(token(t), body['disposition-status'], reason)) ? 200 : 410];
  },
  'com.microsoft:peek-message': (queue, body) => {
    const found = [...queue.entries.values()].filter((entry) => entry.seq >= body['from-sequence-number']);
    const messages = found.slice(0, body['message-count'])
      .map((entry) => ({ message: types.wrap_binary(encode(entry, 0)) }));
    return messages.length > 0 ? [200, { messages }] : [204];
  },
  'com.microsoft:schedule-message': (queue, body) => {
    const numbers = body.messages.map((m) => publish(message.decode(m.message)));
    return [200, { 'sequence-numbers': types.wrap_array(numbers, 0x81) }];
  },
};

const container = rhea.create_container({ autoaccept: false, tcp_no_delay: true, treat_modified_as_released: false });
container.sasl_server_mechanisms.enable_anonymous();
const place = (address) => (address || '').toLowerCase().replace(/\/?\$(management|cbs)$/, '');
const known = (address) => ['', config.topic.toLowerCase()].includes(place(address)) || queues.has(place(address));

function attach(link, address) {
  link.local.attach.snd_settle_mode = link.remote.attach.snd_settle_mode;
  link.local.attach.rcv_settle_mode = link.remote.attach.rcv_settle_mode;
  link.local.attach.max_message_size = 256 * 1024;
  if (!known(address)) { // without a source and a target, the client waits for the reason
    link.local.attach.source = link.local.attach.target = undefined;
    link.close({ condition: 'amqp:not-found', description: `there is no entity ${address}` });
    return;
  }
  link.set_source({ address: link.source.address });
  link.set_target({ address: link.target.address });
}
container.on('receiver_open', ({ receiver }) => attach(receiver, receiver.target.address));
container.on('sender_open', ({ sender, connection }) => {
  attach(sender, sender.source.address);
  connection.replies = (connection.replies || new Map()).set(sender.target.address, sender);
  sender.queue = queues.get(sender.source.address.toLowerCase());
  if (sender.queue) sender.queue.links.add(sender);
});
container.on('sendable', pumpSoon);
container.on('sender_draining', ({ sender }) => sender.set_drained(true));
container.on('sender_close', ({ sender }) => { if (sender.queue) sender.queue.links.delete(sender); });
// rhea keeps the deliveries after one that is not settled yet, 2,048 by default.
container.on('session_open', ({ session }) => { session.outgoing.deliveries.capacity = 1 << 20; });
container.on('connection_open', ({ connection }) => connection.socket.on('close', () => {
  for (const queue of queues.values()) {
    for (const link of queue.links) if (link.connection === connection) queue.links.delete(link);
  }
}));
container.on('connection_error', () => {});
container.on('error', (error) => console.error(error));

container.on('message', (context) => {
  const { delivery, receiver, connection } = context;
  if (/\$(management|cbs)$/.test(receiver.target.address)) {
    const { application_properties: properties, body, reply_to: to, message_id: id } = context.message;
    const request = requests[properties.operation] || (() => [501]);
    const [status, answer] = request(queues.get(place(receiver.target.address)), body);
    delivery.accept();
    connection.replies.get(to).send({ correlation_id: id, body: answer || {},
      application_properties: { 'status-code': types.wrap_int(status), 'status-description': `status ${status}` } });
    return;
  }
  if (faults.delete('lose-publish')) return connection.socket.destroy();
  if (faults.delete('refuse-publish')) return delivery.reject({ condition: 'amqp:not-allowed', description: 'refused' });
  if (context.format === batchFormat) {
    const { content } = message.decode(context.message).body;
    [content].flat().forEach((encoded) => publish(message.decode(encoded)));
  } else {
    publish(context.message);
  }
  if (faults.delete('lose-answer')) return connection.socket.destroy();
  delivery.accept();
});

function settleDelivery({ delivery, connection }, outcome, reason) {
  if (delivery.settled) return;
  if (faults.delete('lose-settle')) return connection.socket.destroy();
  const settled = settle(delivery.tag.toString('hex'), outcome, reason);
  if (faults.delete('swallow-settle')) return;
  const error = { condition: 'com.microsoft:message-lock-lost', description: 'the lock was lost' };
  delivery.update(true, settled ? message.accepted().described() : message.rejected({ error }).described());
  delivery.remote_settled = true; // the client says no more, and rhea keeps what is not settled by both
}
container.on('accepted', (context) => settleDelivery(context, 'completed'));
container.on('released', (context) => settleDelivery(context, 'released'));
container.on('modified', (context) => settleDelivery(context, 'abandoned'));
container.on('rejected', (context) => settleDelivery(context, 'suspended', context.delivery.remote_state.error.info));

const control = http.createServer((request, response) => {
  const [, what, value] = request.url.split('/');
  if (what === 'clock') change({ clock: Number(value) });
  if (what === 'fault') faults.add(value);
  const probes = queues.get(subscription('probe'))?.entries.size || 0;
  const held = [...queues.values()].reduce((sum, queue) => sum + (queue.dead ? queue.entries.size : 0), 0);
  response.end(JSON.stringify({ ...counts, pending: held - probes, probes }));
});
container.listen({ host: '127.0.0.1', port: config.port }).on('listening', () => {
  control.listen(0, '127.0.0.1', () => console.log(`control on http://127.0.0.1:${control.address().port}`));
});
