// The AI SDK against the scripted model: it checks every event by a schema of its own, and runs tool loops itself.

import assert from "node:assert/strict";

import { createOpenAI } from "@ai-sdk/openai";
import { APICallError, generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

import { check, gathered, knownModel, model, run, url } from "./checks.mjs";

globalThis.AI_SDK_LOG_WARNINGS = false;
const openai = createOpenAI({ baseURL: url, apiKey: "none" });
const scripted = openai.responses(model);
const asked = { model: scripted, maxRetries: 0 };
const places = [];
const tools = {
  get_weather: tool({
    description: "The weather of a place",
    inputSchema: z.object({ location: z.string() }),
    execute: async ({ location }) => {
      places.push(location);
      return `sunny in ${location}`;
    },
  }),
};
const reasoning = { openai: { reasoningSummary: "auto", forceReasoning: true } };
const loop = { ...asked, tools, stopWhen: stepCountIs(5) };
const ASK_WEATHER = 'call get_weather {"location": "Paris"}';

/** Streams and gives the parts of the stream; what goes wrong within is thrown, as generateText does. */
async function parts(options) {
  const result = streamText({ ...options, onError: () => {} });
  const all = await gathered(result.fullStream);
  const failed = all.find((part) => part.type === "error");
  if (failed) throw failed.error;
  return { all, result, of: (type) => all.filter((part) => part.type === type) };
}

check("a question is answered", async () => {
  const { text, finishReason, usage, response, warnings } = await generateText({ ...asked, prompt: "say hello there" });

  assert.equal(text, "hello there");
  assert.equal(finishReason, "stop");
  assert.deepEqual([usage.inputTokens, usage.outputTokens, usage.totalTokens], [3, 2, 5]);
  assert.match(response.id, /^resp_/);
  assert.equal(response.modelId, model);
  assert.deepEqual(warnings ?? [], []);
});

check("a stream tells the text of its end", async () => {
  const { of, result } = await parts({ ...asked, prompt: "say hello there, you" });

  assert.deepEqual(of("text-delta").map((part) => part.text), ["hello", " there,", " you"]);
  assert.equal(await result.text, "hello there, you");
  assert.equal(of("text-start").length, 1);
  assert.equal((await result.totalUsage).totalTokens, 7);
  assert.equal(await result.finishReason, "stop");
});

check("a thought is shown as reasoning", async () => {
  const { of, result } = await parts({ ...asked, prompt: "think let me see | say hi", providerOptions: reasoning });

  assert.equal(of("reasoning-delta").map((part) => part.text).join(""), "let me see");
  assert.equal(await result.reasoningText, "let me see");
  assert.equal(await result.text, "hi");
  assert.equal((await result.totalUsage).outputTokenDetails.reasoningTokens, 3);
});

check("a tool loop runs to its end", async () => {
  const { text, steps, totalUsage } = await generateText({ ...loop, prompt: ASK_WEATHER });

  assert.equal(text, "got: sunny in Paris");
  const [first, second] = steps;
  assert.equal(steps.length, 2);
  assert.equal(first.finishReason, "tool-calls");
  assert.deepEqual([first.toolCalls[0].toolName, first.toolCalls[0].input], ["get_weather", { location: "Paris" }]);
  assert.equal(first.toolResults[0].output, "sunny in Paris");
  assert.equal(totalUsage.totalTokens, first.usage.totalTokens + second.usage.totalTokens);
});

check("a streamed tool loop runs to its end, with a thought", async () => {
  const { of, result } = await parts({ ...loop, prompt: `think hm | ${ASK_WEATHER}`, providerOptions: reasoning });

  assert.equal(await result.text, "got: sunny in Paris");
  assert.equal(of("tool-input-delta").map((part) => part.delta).join(""), '{"location": "Paris"}');
  assert.deepEqual(of("tool-call").map((part) => part.input), [{ location: "Paris" }]);
  assert.deepEqual(of("tool-result").map((part) => part.output), ["sunny in Paris"]);
});

check("two calls of one turn are both run", async () => {
  const prompt = `${ASK_WEATHER} | call get_weather {"location": "Rome"}`;
  places.length = 0;
  const { text } = await generateText({ ...loop, prompt });

  assert.deepEqual(places, ["Paris", "Rome"]);
  assert.equal(text, "got: sunny in Paris, sunny in Rome");
});

check("a script of several turns is followed", async () => {
  const prompt = `say first | ${ASK_WEATHER} => call get_weather {"location": "Rome"} => say done`;
  const { text, steps } = await generateText({ ...loop, prompt });

  assert.deepEqual(steps.map((step) => step.toolCalls.map((call) => call.input.location)), [["Paris"], ["Rome"], []]);
  assert.equal(text, "done");
});

check("a tool choice is kept to", async () => {
  const named = { type: "tool", toolName: "ping" };
  const ping = tool({ inputSchema: z.object({}) });
  const { toolCalls } = await generateText({ ...asked, tools: { ping }, toolChoice: named, prompt: "hi" });
  const { text } = await generateText({ ...loop, toolChoice: "none", prompt: `say no | ${ASK_WEATHER}` });

  assert.deepEqual(toolCalls.map((call) => call.toolName), ["ping"]);
  assert.equal(text, "no");
});

check("a conversation goes on from the previous response", async () => {
  const first = await generateText({ ...asked, prompt: "say one" });
  const providerOptions = { openai: { previousResponseId: first.providerMetadata.openai.responseId } };
  const { of, result } = await parts({ ...asked, prompt: "say two", providerOptions });

  assert.equal(await result.text, "two");
  assert.equal(of("finish-step")[0].usage.inputTokens, 5);
});

function goesOnFromMessages(store) {
  const providerOptions = { openai: { store } };
  return async () => {
    const messages = [{ role: "user", content: `think hm | say so | ${ASK_WEATHER}` }];
    const first = await generateText({ ...loop, system: "Be brief.", messages, providerOptions });
    messages.push(...first.response.messages, { role: "user", content: "say bye" });
    const second = await generateText({ ...loop, system: "Be brief.", messages, providerOptions });

    assert.equal(first.text, "got: sunny in Paris");
    assert.equal(second.text, "bye");
  };
}

check("a conversation goes on from its messages", goesOnFromMessages(true)); // sent as references to stored items
check("a conversation goes on from its messages where nothing is stored", goesOnFromMessages(false));

check("a tool loop of a reasoning model runs where nothing is stored", async () => {
  const providerOptions = { openai: { store: false } };
  const reasoner = { ...loop, model: openai.responses(knownModel), providerOptions };
  const { text, steps } = await generateText({ ...reasoner, prompt: `think hm | ${ASK_WEATHER}` });

  assert.equal(text, "got: sunny in Paris");
  assert.equal(steps[0].usage.outputTokenDetails.reasoningTokens, 1);
});

check("an answer is an object of its schema", async () => {
  const output = Output.object({ schema: z.object({ name: z.string(), people: z.number() }) });
  const asks = { ...asked, output, prompt: 'say {"name": "Paris", "people": 2}' };
  const whole = await generateText(asks);
  const { result } = await parts(asks);

  assert.deepEqual(whole.output, { name: "Paris", people: 2 });
  assert.deepEqual(await result.output, { name: "Paris", people: 2 });
});

check("a custom tool, a shell and a patch are run by the client", async () => {
  const ran = [];
  const keep = (answer) => async (input) => {
    ran.push(input);
    return answer;
  };
  const outcome = { type: "exit", exitCode: 0 };
  const { text } = await generateText({
    ...loop,
    tools: {
      sql: openai.tools.customTool({ execute: keep("one row") }),
      shell: openai.tools.shell({ execute: keep({ output: [{ stdout: "a file", stderr: "", outcome }] }) }),
      apply_patch: openai.tools.applyPatch({ execute: keep({ status: "completed", output: "patched" }) }),
    },
    prompt:
      'call sql {"input": "select 1"} => call shell {"commands": ["ls"]} => ' +
      'call apply_patch {"operation": {"type": "create_file", "path": "a.txt", "diff": "+a"}} => say done',
  });

  assert.equal(text, "done");
  const [query, { action }, { operation }] = ran;
  assert.equal(query, "select 1");
  assert.deepEqual(action.commands, ["ls"]);
  assert.deepEqual(operation, { type: "create_file", path: "a.txt", diff: "+a" });
});

check("an answer that is cut says so", async () => {
  const { text, finishReason } = await generateText({ ...asked, prompt: "long 50", maxOutputTokens: 2 });

  assert.deepEqual([text, finishReason], ["word0 word1", "length"]);
});

check("an unknown model is an error with the server's message, streamed or not", async () => {
  const unknown = { ...asked, model: openai.responses("gpt-99"), prompt: "hi" };
  for (const attempt of [generateText, parts]) {
    await assert.rejects(attempt(unknown), (error) => {
      assert(APICallError.isInstance(error));
      assert.match(error.message, /gpt-99/);
      assert.equal(error.data.error.code, "model_not_found");
      return true;
    });
  }
});

check("a model that fails under way is an error in the stream", async () => {
  await assert.rejects(parts({ ...asked, prompt: "say half, | fail on purpose" }), /on purpose/);
});

await run();
