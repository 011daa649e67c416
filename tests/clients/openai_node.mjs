// The official SDK for Node against the scripted model, by its strict paths: typed answers, streams, loops and errors.

import assert from "node:assert/strict";

import OpenAI from "openai";
import { zodResponsesFunction, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

import { check, gathered, knownModel, model, run, url } from "./checks.mjs";

const client = new OpenAI({ baseURL: url, apiKey: "none", maxRetries: 0 });
const weather = zodResponsesFunction({
  name: "get_weather",
  description: "The weather of a place",
  parameters: z.object({ location: z.string() }),
});
const city = zodTextFormat(z.object({ name: z.string(), people: z.number() }), "city");
const sql = { type: "custom", name: "sql", format: { type: "grammar", syntax: "lark", definition: 'start: "select " /[0-9]+/' } };
const ASK_WEATHER = 'call get_weather {"location": "Paris"}';

function of(events, type) {
  return events.filter((event) => event.type === type);
}

check("a question is answered", async () => {
  const response = await client.responses.create({ model, input: "say hello there" });

  assert.equal(response.output_text, "hello there");
  assert.equal(response.status, "completed");
  assert.match(response.id, /^resp_/);
  assert.match(response._request_id, /^req_/);
  const { input_tokens, output_tokens, total_tokens } = response.usage;
  assert.deepEqual([input_tokens, output_tokens, total_tokens], [3, 2, 5]);
});

check("the strict stream ends with the text that it told", async () => {
  const snapshots = [];
  const stream = client.responses.stream({ model, input: "say hello there, you" });
  stream.on("response.output_text.delta", (event) => snapshots.push(event.snapshot));
  const events = await gathered(stream);
  const final = await stream.finalResponse();

  const deltas = of(events, "response.output_text.delta");
  assert.deepEqual(deltas.map((event) => event.delta), ["hello", " there,", " you"]);
  assert.deepEqual(snapshots, ["hello", "hello there,", "hello there, you"]);
  assert.deepEqual(events.map((event) => event.sequence_number), [...events.keys()]);
  assert.equal(final.output_text, "hello there, you");
  assert.equal(final.usage.total_tokens, 7);
  assert.equal(events.at(-1).type, "response.completed");
  assert.equal((await client.responses.retrieve(final.id)).output_text, final.output_text);
});

check("a thought is streamed as a summary", async () => {
  const stream = client.responses.stream({ model, input: "think let me see | say hi", reasoning: { summary: "auto" } });
  const events = await gathered(stream);
  const [reasoning, message] = (await stream.finalResponse()).output;

  const thought = of(events, "response.reasoning_summary_text.delta");
  assert.equal(thought.map((event) => event.delta).join(""), "let me see");
  assert.deepEqual(reasoning.summary, [{ type: "summary_text", text: "let me see" }]);
  assert.equal(message.content[0].text, "hi");
});

check("a call is parsed by the schema of its function", async () => {
  const response = await client.responses.parse({ model, input: ASK_WEATHER, tools: [weather] });

  const [call] = response.output;
  assert.equal(call.type, "function_call");
  assert.deepEqual(call.parsed_arguments, { location: "Paris" });
});

check("the arguments of a call are streamed", async () => {
  const snapshots = [];
  const stream = client.responses.stream({ model, input: ASK_WEATHER, tools: [weather] });
  stream.on("response.function_call_arguments.delta", (event) => snapshots.push(event.snapshot));
  const events = await gathered(stream);
  const [call] = (await stream.finalResponse()).output;

  const [added] = of(events, "response.output_item.added");
  assert.deepEqual([added.item.name, added.item.arguments], ["get_weather", ""]);
  assert.deepEqual(snapshots, ['{"location":', '{"location": "Paris"}']);
  assert.deepEqual(call.parsed_arguments, { location: "Paris" });
});

check("a tool loop goes on from the previous response", async () => {
  const asked = await client.responses.create({ model, input: ASK_WEATHER, tools: [weather] });
  const answered = await client.responses
    .stream({
      model,
      previous_response_id: asked.id,
      input: [{ type: "function_call_output", call_id: asked.output[0].call_id, output: "sunny" }],
      tools: [weather],
    })
    .finalResponse();
  const after = await client.responses.create({ model, previous_response_id: answered.id, input: "say bye" });

  assert.equal(answered.output_text, "got: sunny");
  assert.equal(answered.previous_response_id, asked.id);
  assert.equal(after.output_text, "bye");
  const items = await gathered(client.responses.inputItems.list(after.id, { order: "asc" }));
  assert.deepEqual(
    items.map((item) => item.type),
    ["message", "function_call", "function_call_output", "message", "message"],
  );
});

check("a tool loop goes on from items handed back", async () => {
  const input = [{ role: "user", content: `think hm | ${ASK_WEATHER}` }];
  const asked = await client.responses.create({ model, input, tools: [weather], store: false });
  const call = asked.output.find((item) => item.type === "function_call");
  input.push(...asked.output, { type: "function_call_output", call_id: call.call_id, output: "sunny" });
  const answered = await client.responses.create({ model, input, tools: [weather], store: false });

  assert.equal(answered.output_text, "got: sunny");
});

check("a tool loop goes on from reasoning that was asked for by value", async () => {
  const asks = { model, tools: [weather], store: false, include: ["reasoning.encrypted_content"] };
  const input = [{ role: "user", content: `think hm | ${ASK_WEATHER}` }];
  const asked = await client.responses.stream({ ...asks, input }).finalResponse();
  const [reasoning, call] = asked.output;
  input.push(reasoning, call, { type: "function_call_output", call_id: call.call_id, output: "sunny" });
  const answered = await client.responses.create({ ...asks, input });

  assert.deepEqual([reasoning.type, reasoning.content], ["reasoning", [{ type: "reasoning_text", text: "hm" }]]);
  assert.equal(answered.output_text, "got: sunny");
});

check("the input of a custom tool is streamed and answered", async () => {
  const { format, ...free } = sql;
  const stream = client.responses.stream({ model, tools: [free], input: 'call sql {"input": "select 1"}' });
  const events = await gathered(stream);
  const asked = await stream.finalResponse();
  const [call] = asked.output;
  const answered = await client.responses.create({
    model,
    previous_response_id: asked.id,
    input: [{ type: "custom_tool_call_output", call_id: call.call_id, output: "1" }],
    tools: [free],
  });

  assert.deepEqual([call.type, call.name, call.input], ["custom_tool_call", "sql", "select 1"]);
  const deltas = of(events, "response.custom_tool_call_input.delta");
  assert.equal(deltas.map((event) => event.delta).join(""), "select 1");
  assert.equal(answered.output_text, "got: 1");
});

check("the input of a custom tool fits its grammar", async () => {
  const fits = await client.responses.create({ model, tools: [sql], input: 'call sql {"input": "select 12"}' });
  const fails = await client.responses.create({ model, tools: [sql], input: 'call sql {"input": "drop"}' }).catch((e) => e);

  assert.equal(fits.output[0].input, "select 12");
  assert(!fails.output?.some((item) => item.type === "custom_tool_call"));
});

check("an answer is parsed by its schema", async () => {
  const asks = { model, text: { format: city }, input: 'say {"name": "Paris", "people": 2}' };
  const parsed = await client.responses.parse(asks);
  const streamed = await client.responses.stream(asks).finalResponse();

  assert.deepEqual(parsed.output_parsed, { name: "Paris", people: 2 });
  assert.deepEqual(streamed.output_parsed, { name: "Paris", people: 2 });
  assert.deepEqual(streamed.text.format.schema, city.schema);
});

check("an answer that is cut says so", async () => {
  const final = await client.responses.stream({ model, input: "long 50", max_output_tokens: 2 }).finalResponse();

  assert.deepEqual([final.status, final.output_text], ["incomplete", "word0 word1"]);
  assert.equal(final.incomplete_details.reason, "max_output_tokens");
});

check("a refusal is told apart from text", async () => {
  const final = await client.responses.stream({ model, input: "refuse not that" }).finalResponse();

  const [{ type, refusal }] = final.output[0].content;
  assert.deepEqual([type, refusal], ["refusal", "not that"]);
  assert.equal(final.output_text, "");
});

check("an unknown model is an error of its class, streamed or not", async () => {
  const expected = (error) => {
    assert(error instanceof OpenAI.APIError);
    assert.deepEqual([error.code, error.param], ["model_not_found", "model"]);
    assert.match(error.message, /gpt-99/);
    return true;
  };
  await assert.rejects(client.responses.create({ model: "gpt-99", input: "hello" }), expected);
  await assert.rejects(client.responses.stream({ model: "gpt-99", input: "hello" }).finalResponse(), expected);
});

check("a misspelt parameter is a bad request", async () => {
  await assert.rejects(client.responses.create({ model, input: "hello", temprature: 1 }), (error) => {
    assert(error instanceof OpenAI.BadRequestError);
    assert.deepEqual([error.status, error.code, error.param], [400, "unknown_parameter", "temprature"]);
    return true;
  });
});

check("a model that fails under way ends the stream as failed", async () => {
  const stream = client.responses.stream({ model, input: "say half, | fail on purpose" });
  const final = await stream.finalResponse();

  assert.equal(final.status, "failed");
  assert.match(final.error.message, /on purpose/);
});

check("a stream may be left early", async () => {
  const stream = await client.responses.create({ model, input: "stall", stream: true });
  for await (const event of stream) {
    if (event.type === "response.output_text.delta") break;
  }

  assert(stream.controller.signal.aborted);
});

check("a response that was deleted is gone", async () => {
  const { id } = await client.responses.create({ model, input: "hello" });
  await client.responses.delete(id);

  await assert.rejects(client.responses.retrieve(id), OpenAI.NotFoundError);
});

check("the models are listed", async () => {
  assert.deepEqual((await gathered(client.models.list())).map(({ id }) => id), [model, knownModel]);
});

await run();
