import Core

/// What a value must look like: what the JSON Schema and the reference are printed from.
indirect enum Shape: Sendable {
  case text
  /// Text, or what looks like a number or a truth value, taken as it is written.
  case scalar
  /// A DNS label.
  case name
  case integer(ClosedRange<Int>)
  case boolean
  case duration
  case secret
  case oneOf([String])
  /// Text in a form of its own, such as a schedule; `pattern` is a regular expression of ECMA-262.
  case formatted(String, pattern: String?)
  case list(Shape)
  case map(Shape)
  /// Any of these, told apart by what kind of YAML value it is.
  case either([Shape])
  case record(RecordShape)
  /// A driver's own options.
  case options

  /// As the reference shows it.
  var title: String {
    switch self {
    case .text, .scalar: "text"
    case .name: "name"
    case .integer(let range):
      range == .min ... .max ? "integer" : "integer, \(range.lowerBound) to \(range.upperBound)"
    case .boolean: "boolean"
    case .duration: "duration"
    case .secret: "secret reference"
    case .oneOf(let words): words.map { "`\($0)`" }.joined(separator: ", ")
    case .formatted(let title, _): title
    case .list(let element): "list of \(element.title)"
    case .map(let element): "mapping of names to \(element.title)"
    case .either(let shapes): shapes.map(\.title).joined(separator: " or ")
    case .record(let record): record.name
    case .options: "mapping, see the driver"
    }
  }
}

/// A mapping with named fields.
struct RecordShape: Sendable {
  struct Field: Sendable {
    var name: String
    var shape: Shape
    var isRequired: Bool
    var fallback: String?
    var help: String
  }

  var name: String
  var help: String
  var fields: [Field]
  /// Fields that exclude each other.
  struct Choice: Sendable {
    var fields: [String]
    /// One of them must be given.
    var isRequired: Bool

    static func exactlyOne(_ fields: String...) -> Choice { Choice(fields: fields, isRequired: true) }
    static func atMostOne(_ fields: String...) -> Choice { Choice(fields: fields, isRequired: false) }
  }

  var choices: [Choice]
  /// Keys that are drivers' names are allowed too, with the driver's options as value.
  var takesDriverKeys: Bool
}
