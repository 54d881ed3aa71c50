// A service that is guarded by express-idempotency, set up as its README and its adapter's say.
const { randomUUID } = require('crypto');
const fs = require('fs');
const express = require('express');
const idempotency = require('express-idempotency');

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const app = express();
app.use(express.json());
if (process.env.STORE === 'redis') {
  const RedisAdapter = require('express-idempotency-redis-adapter').default;
  const dataAdapter = new RedisAdapter({ connectionConfig: { url: process.env.REDIS_URL } });
  dataAdapter.connect().catch((error) => {
    throw error;
  });
  app.use(idempotency.idempotency({ dataAdapter }));
} else {
  app.use(idempotency.idempotency());
}

app.post('/payments', async (req, res) => {
  const service = idempotency.getSharedIdempotencyService();
  if (service.isHit(req)) {
    return;
  }
  if (req.get('X-Fail')) {
    service.reportError(req);
    res.status(500).json({ code: 'failed' });
    return;
  }
  fs.appendFileSync(process.env.EFFECTS, JSON.stringify(req.body) + '\n'); // the effect
  await sleep(100);
  res.status(201).json({ id: randomUUID() });
});

app.listen(Number(process.env.PORT), '127.0.0.1');
