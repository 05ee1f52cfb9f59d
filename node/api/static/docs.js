"use strict";

/** Make an element. Text is always set as text, never as markup. */
function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** What an array holds, also where it is said of items that no other keyword has looked at. */
function itemsOf(schema) {
  return schema.items || schema.unevaluatedItems;
}

/** The alternatives of a schema that are not null. */
function alternatives(schema) {
  return (schema.anyOf || schema.oneOf || []).filter((each) => each.type !== "null");
}

function resolve(spec, schema) {
  if (schema && !schema.$ref && alternatives(schema).length === 1) return resolve(spec, alternatives(schema)[0]);
  if (!schema || !schema.$ref) return schema || {};
  return spec.components.schemas[schema.$ref.split("/").pop()] || {};
}

function typeName(spec, schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  const choices = alternatives(schema).map((each) => typeName(spec, each));
  if (choices.length) {
    return [...choices, ...(schema.anyOf || []).some((each) => each.type === "null") ? ["null"] : []].join(" or ");
  }
  const type = Array.isArray(schema.type) ? schema.type.join(" or ") : schema.type || "any";
  if (schema.type === "array") return `array of ${typeName(spec, itemsOf(schema))}`;
  return schema.enum ? `${type}: ${schema.enum.join(", ")}` : type;
}

function limits(schema) {
  const words = { minLength: "at least", maxLength: "at most", minItems: "at least", maxItems: "at most",
    minimum: "from", maximum: "to" };
  return Object.keys(words).filter((key) => key in schema).map((key) => `${words[key]} ${schema[key]}`).join(", ");
}

/** Rows for the properties of an object, nested ones indented, references followed once. */
function rows(spec, schema, depth, seen) {
  const found = [];
  const full = resolve(spec, schema);
  for (const [name, property] of Object.entries(full.properties || {})) {
    const required = (full.required || []).includes(name);
    const target = resolve(spec, property);
    const notes = [property.description || target.description || "", limits(property)].filter(Boolean)
      .map((note) => note.replace(/\.$/, "")).join("; ");
    found.push(element("tr", {},
      element("td", { class: `depth-${depth}` }, element("code", {}, name),
        required ? element("span", { class: "required", title: "required" }, " *") : null),
      element("td", {}, typeName(spec, property)),
      element("td", {}, notes)));
    const inner = property.type === "array" ? itemsOf(property) || {} : property;
    const key = (alternatives(inner).length === 1 ? alternatives(inner)[0] : inner).$ref || "";
    if (depth < 4 && !seen.includes(key)) {
      found.push(...rows(spec, inner, depth + 1, key ? [...seen, key] : seen));
    }
  }
  return found;
}

function schemaView(spec, schema) {
  const target = schema && schema.type === "array" ? itemsOf(schema) : schema;
  const body = rows(spec, target, 0, []);
  if (!body.length) return element("p", {}, typeName(spec, schema) || "no body");
  return element("table", {}, element("thead", {}, element("tr", {},
    element("th", {}, "Field"), element("th", {}, "Type"), element("th", {}, "Meaning"))),
    element("tbody", {}, ...body));
}

function example(value) {
  return element("pre", {}, typeof value === "string" ? value : JSON.stringify(value, null, 2));
}

function contentView(spec, content) {
  const parts = [];
  for (const [type, media] of Object.entries(content || {})) {
    parts.push(element("p", {}, element("code", {}, type)));
    if (type !== "application/problem+json") parts.push(schemaView(spec, media.schema));
    for (const [name, one] of Object.entries(media.examples || {})) {
      parts.push(element("details", {}, element("summary", {}, `Example: ${name}`), example(one.value)));
    }
  }
  return parts;
}

function parametersView(spec, parameters) {
  const body = parameters.map((parameter) => element("tr", {},
    element("td", {}, element("code", {}, parameter.name),
      parameter.required ? element("span", { class: "required" }, " *") : null),
    element("td", {}, parameter.in), element("td", {}, typeName(spec, parameter.schema)),
    element("td", {}, parameter.description || parameter.schema.description || "")));
  return element("table", {}, element("tbody", {}, ...body));
}

function operationView(spec, path, method, operation) {
  const article = element("article", { id: operation.operationId },
    element("h3", {}, element("span", { class: `method ${method}` }, method), " ", path),
    element("p", {}, operation.summary || ""));
  if (operation.description) article.append(element("p", {}, operation.description));
  if (operation.parameters) {
    article.append(element("h4", {}, "Parameters"), parametersView(spec, operation.parameters));
  }
  if (operation.requestBody) {
    article.append(element("h4", {}, "Request"), ...contentView(spec, operation.requestBody.content));
  }
  article.append(element("h4", {}, "Answers"));
  for (const [status, answer] of Object.entries(operation.responses)) {
    article.append(element("details", status.startsWith("2") ? { open: "" } : {},
      element("summary", {}, `${status} ${answer.description}`), ...contentView(spec, answer.content)));
  }
  return article;
}

function show(spec) {
  document.getElementById("description").textContent = spec.info.description;
  const contents = document.getElementById("contents");
  const main = document.getElementById("operations");
  const entries = [];
  for (const tag of spec.tags) {
    contents.append(element("h2", {}, tag.name));
    for (const [path, methods] of Object.entries(spec.paths)) {
      for (const [method, operation] of Object.entries(methods)) {
        if (!operation.tags.includes(tag.name)) continue;
        const link = element("a", { href: `#${operation.operationId}` },
          element("span", { class: `method ${method}` }, method), path);
        const view = operationView(spec, path, method, operation);
        contents.append(link);
        main.append(view);
        entries.push({ link, view, words: view.textContent.toLowerCase() });
      }
    }
  }
  document.getElementById("filter").addEventListener("input", (event) => {
    const wanted = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const { link, view, words } of entries) {
      const hidden = !wanted.every((word) => words.includes(word));
      link.hidden = hidden;
      view.hidden = hidden;
      link.style.display = hidden ? "none" : "";
    }
  });
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

fetch("/openapi.json")
  .then((response) => response.json())
  .then(show)
  .catch((error) => {
    document.getElementById("description").textContent = `The description could not be read: ${error.message}`;
  });
