import Core

/// The JSON Schema (draft 2020-12) of a manifest document, for editors; made from the tables the decoder reads by.
package enum CatalogSchema {
  /// The file `docs/reference/catalog.schema.json`.
  ///
  /// - Parameter drivers: Their options become part of it, so that editors complete them too; empty for a schema that
  ///   takes any.
  package static func text(drivers: [DriverName: [OptionSchema]] = [:]) -> String {
    // Nothing in it is a number JSON can't spell.
    ((try? CanonicalJSON.text(value(drivers: drivers), pretty: true)) ?? "{}") + "\n"
  }

  static func value(drivers: [DriverName: [OptionSchema]]) -> JSONValue {
    var builder = SchemaBuilder(drivers: drivers)
    let kinds = Manifests.kinds.map { kind -> JSONValue in
      [
        "title": .string(kind.shape.name),
        "description": .string(kind.shape.help),
        "type": "object",
        "required": kind.shape.fields.contains(where: \.isRequired)
          ? ["apiVersion", "kind", "metadata", "spec"] : ["apiVersion", "kind", "metadata"],
        "additionalProperties": false,
        "properties": [
          "apiVersion": ["const": .string(Manifests.apiVersion)],
          "kind": ["const": .string(kind.shape.name)],
          "metadata": builder.schema(.record(Metadata.table.shape)),
          "spec": builder.schema(.record(kind.shape)),
        ],
      ]
    }
    return [
      "$schema": "https://json-schema.org/draft/2020-12/schema",
      "$id": "https://salvor.dev/schemas/v1/catalog.schema.json",
      "title": "Salvor catalog document",
      "oneOf": .array(kinds),
      "$defs": .object(builder.definitions),
    ]
  }
}

private struct SchemaBuilder {
  let drivers: [DriverName: [OptionSchema]]
  private(set) var definitions: [String: JSONValue] = [
    "name": [
      "type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
      "description": "1 to 63 of a-z, 0-9 and '-', with no '-' at either end.",
    ],
    "duration": [
      "type": "string", "pattern": #"^([0-9]+(\.[0-9]+)?(ns|us|ms|s|m|h|d|w))+$"#,
      "description": "500ms, 30s, 15m, 1h30m, 2d.",
    ],
    "secret": [
      "type": "string", "pattern": "^(file|env|command):.+$",
      "description": "file:/path, env:NAME or command:program; never the secret itself.",
    ],
  ]

  init(drivers: [DriverName: [OptionSchema]]) { self.drivers = drivers }

  mutating func schema(_ shape: Shape) -> JSONValue {
    switch shape {
    case .text: return ["type": "string"]
    case .scalar: return ["type": ["string", "number", "boolean"]]
    case .name: return reference("name")
    case .duration: return reference("duration")
    case .secret: return reference("secret")
    case .boolean: return ["type": "boolean"]
    case .integer(let range):
      var members: [String: JSONValue] = ["type": "integer"]
      if range.lowerBound != .min { members["minimum"] = .integer(Int64(range.lowerBound)) }
      if range.upperBound != .max { members["maximum"] = .integer(Int64(range.upperBound)) }
      return .object(members)
    case .oneOf(let words): return ["enum": .array(words.map { .string($0) })]
    case .formatted(_, let pattern):
      return pattern.map { ["type": "string", "pattern": .string($0)] } ?? ["type": "string"]
    case .list(let element): return ["type": "array", "items": schema(element)]
    case .map(let element): return ["type": "object", "additionalProperties": schema(element)]
    case .either(let shapes): return ["anyOf": .array(shapes.map { schema($0) })]
    case .options: return ["type": "object"]
    case .record(let record):
      if definitions[record.name] == nil {
        // Taken before it is filled in, or a record that holds itself would never end.
        definitions[record.name] = .null
        definitions[record.name] = object(record)
      }
      return reference(record.name)
    }
  }

  private func reference(_ name: String) -> JSONValue { ["$ref": .string("#/$defs/\(name)")] }

  private mutating func object(_ record: RecordShape) -> JSONValue {
    var properties: [String: JSONValue] = [:]
    for field in record.fields {
      var schema = schema(field.shape)
      if case .object(var members) = schema {
        members["description"] = .string(field.help)
        schema = .object(members)
      }
      properties[field.name] = schema
    }
    if record.takesDriverKeys {
      for (driver, options) in drivers { properties[driver.text] = self.options(options) }
    }
    var result: [String: JSONValue] = [
      "type": "object", "description": .string(record.help), "properties": .object(properties),
      "additionalProperties": .bool(record.takesDriverKeys && drivers.isEmpty),
    ]
    let required = record.fields.filter(\.isRequired).map { JSONValue.string($0.name) }
    if !required.isEmpty { result["required"] = .array(required) }
    let rules = record.choices.map { choice -> JSONValue in
      let each = choice.fields.map { JSONValue.object(["required": [.string($0)]]) }
      if choice.isRequired { return ["oneOf": .array(each)] }
      let none: JSONValue = ["not": ["anyOf": .array(each)]]
      return ["oneOf": .array([none] + each)]
    }
    if !rules.isEmpty { result["allOf"] = .array(rules) }
    return .object(result)
  }

  private mutating func options(_ options: [OptionSchema]) -> JSONValue {
    var properties: [String: JSONValue] = [:]
    for option in options {
      guard case .object(var members) = schema(option.kind.shape) else { continue }
      members["description"] = .string(option.help)
      properties[option.name] = .object(members)
    }
    var result: [String: JSONValue] = [
      "type": ["object", "null"], "properties": .object(properties), "additionalProperties": false,
    ]
    let required = options.filter(\.isRequired).map { JSONValue.string($0.name) }
    if !required.isEmpty { result["required"] = .array(required) }
    return .object(result)
  }
}
