// A client of the interface, as its description types it. Run with the node's address.
import createClient from "openapi-fetch";
import type { components, paths } from "./api";

const node = createClient<paths>({ baseUrl: process.argv[2] });
const source: components["schemas"]["SourceInput"] = {
  sourceId: "typescript",
  name: "A client in TypeScript",
  sourceType: "webhook",
  validationRules: { bounds: [{ field: "value", min: -90, max: 60 }] },
};

function got<T>(result: { data?: T; error?: unknown }): T {
  if (result.data === undefined) throw new Error(JSON.stringify(result.error));
  return result.data;
}

const created = got(await node.POST("/overlay/sources", { body: source }));
const taken = got(
  await node.POST("/overlay/events/ingest", {
    body: {
      sourceId: created.sourceId,
      events: [{ externalId: "e-1", eventType: "reading", data: { value: 23.5 } }],
    },
  }),
);
if (!("ingestionId" in taken)) throw new Error("lines, not a document");
const eventId = taken.processedEvents?.[0].eventId;
if (eventId == null) throw new Error("the event was not taken");
process.stdout.write(`${eventId}\n`);
await new Promise<void>((resolve) => process.stdin.once("data", () => resolve())); // until the event is certified
const certificate = got(
  await node.GET("/overlay/events/{eventId}/certificate", { params: { path: { eventId } } }),
);
if (typeof certificate === "string") throw new Error("a page, not a document");
const { status, level, proof } = certificate;
process.stdout.write(`${JSON.stringify({ status, level, leaf: proof.leafHash })}\n`);
process.exit(0);
