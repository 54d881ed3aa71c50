// A service that is guarded by @node-idempotency/nestjs, set up as its README says. The decorators
// are applied by hand, because this file is JavaScript.
require('reflect-metadata');
const { randomUUID } = require('crypto');
const fs = require('fs');
const { Body, Controller, Headers, HttpException, Module, Post } = require('@nestjs/common');
const { NestFactory } = require('@nestjs/core');
const { Idempotent, NodeIdempotencyModule } = require('@node-idempotency/nestjs');

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

class Payments {
  async create(body, fail) {
    if (fail) {
      throw new HttpException({ code: 'failed' }, 500);
    }
    fs.appendFileSync(process.env.EFFECTS, JSON.stringify(body) + '\n'); // the effect
    await sleep(100);
    return { id: randomUUID() };
  }
}
const create = Object.getOwnPropertyDescriptor(Payments.prototype, 'create');
Reflect.decorate([Post(), Idempotent()], Payments.prototype, 'create', create);
Body()(Payments.prototype, 'create', 0);
Headers('x-fail')(Payments.prototype, 'create', 1);
Reflect.decorate([Controller('payments')], Payments);

const storage = process.env.STORE === 'redis'
  ? { adapter: 'redis', options: { url: process.env.REDIS_URL } }
  : { adapter: 'memory', options: {} };
class App {}
Reflect.decorate([Module({ imports: [NodeIdempotencyModule.forRootAsync({ storage })], controllers: [Payments] })], App);

NestFactory.create(App, { logger: false }).then((app) => app.listen(Number(process.env.PORT), '127.0.0.1'));
