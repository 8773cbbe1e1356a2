// OpenAI's client for JavaScript; features.py in small.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "none", maxRetries: 0 }); // pragma: allowlist secret
const model = "tiny", messages = [{ role: "user", content: "hello" }];
const schema = { type: "object", properties: { answer: { enum: ["yes", "no"] } }, required: ["answer"], additionalProperties: false };
const parameters = { type: "object", properties: { city: { type: "string", maxLength: 8 } }, required: ["city"] };
const described = { name: "get_weather", description: "The weather in a city.", parameters };
const tools = [{ type: "function", function: described }];

function check(held, what) {
  if (!held) throw new Error(`not so: ${what}`);
}

class Refused extends Error {}

async function refused(ask, ...names) {
  try {
    await ask();
  } catch (error) {
    const told = `${error} ${JSON.stringify(error.error ?? {})}`;
    if (names.every((name) => told.includes(name))) throw new Refused();
    throw error;
  }
  throw new Error("it was not refused");
}

async function call() {
  const answer = await client.chat.completions.create({ model, messages, tools, tool_choice: "required", parallel_tool_calls: false });
  const message = answer.choices[0].message;
  check(typeof JSON.parse(message.tool_calls[0].function.arguments).city === "string", "a city");
  return message;
}

const picture = { type: "image_url", image_url: { url: "data:image/png;base64,iVBORw0KGgo=" } };
const tried = {
  models: async () => {
    const found = [];
    for await (const one of client.models.list()) found.push(one.id);
    check(found.join() === model, "one model");
  },
  chat: async () => {
    const answer = await client.chat.completions.create({ model, messages, max_tokens: 4 });
    check(answer.usage.completion_tokens <= 4, "its usage");
  },
  stream: async () => {
    const wish = { model, messages, max_tokens: 8, temperature: 0 };
    let told = "";
    for await (const chunk of await client.chat.completions.create({ ...wish, stream: true })) told += chunk.choices[0].delta.content ?? "";
    check(told === (await client.chat.completions.create(wish)).choices[0].message.content, "the same text");
  },
  schema: async () => {
    const response_format = { type: "json_schema", json_schema: { name: "reply", schema, strict: true } };
    const answer = await client.chat.completions.create({ model, messages, response_format });
    check(["yes", "no"].includes(JSON.parse(answer.choices[0].message.content).answer), "an answer of the schema");
  },
  tools: call,
  result: async () => {
    const asked = await call();
    const answered = { role: "tool", tool_call_id: asked.tool_calls[0].id, content: "rain" };
    await client.chat.completions.create({ model, messages: [...messages, asked, answered], tools, max_tokens: 4 });
  },
  choices: async () => {
    const answer = await client.chat.completions.create({ model, messages, n: 2, max_tokens: 4 });
    check(answer.choices.length === 2, "two answers");
  },
  logprobs: async () => {
    const answer = await client.chat.completions.create({ model, messages, logprobs: true, top_logprobs: 2, max_tokens: 2 });
    check(answer.choices[0].logprobs.content[0].top_logprobs.length === 2, "the two likeliest");
  },
  text: async () => {
    const answer = await client.completions.create({ model, prompt: "hello", max_tokens: 4 });
    check(["stop", "length"].includes(answer.choices[0].finish_reason), "an end");
  },
  echo: async () => {
    const answer = await client.completions.create({ model, prompt: "hello", echo: true, logprobs: 1, max_tokens: 0 });
    check(answer.choices[0].text === "hello" && answer.choices[0].logprobs.token_logprobs[1] < 0, "a rated prompt");
  },
  embed: async () => {
    const answer = await client.embeddings.create({ model, input: ["hello", "bye"], dimensions: 16 });
    check(answer.data[1].embedding.length === 16, "16 numbers");
  },
  responses: async () => {
    const wish = { model, input: "hello", max_output_tokens: 8, temperature: 0 };
    let last;
    for await (const event of await client.responses.create({ ...wish, stream: true })) last = event;
    const whole = await client.responses.create(wish);
    check(last.response.output[0].content[0].text === whole.output_text, "the same text");
  },
  image: () =>
    refused(() => client.chat.completions.create({ model, messages: [{ role: "user", content: [picture] }] }), "images"),
  unknown: () => refused(() => client.chat.completions.create({ model: "nil", messages }), "nil"),
};

const found = {};
for (const [name, ask] of Object.entries(tried)) {
  try {
    await ask();
    found[name] = "works";
  } catch (error) {
    found[name] = error instanceof Refused ? "refused" : `${error}`.slice(0, 300);
  }
}
process.stdout.write(JSON.stringify(found));
