import Core

/// A value with the place it was read from, for messages about it later.
struct Located<Value: Sendable>: Sendable {
  var value: Value
  var mark: Mark

  init(_ value: Value, at mark: Mark) { (self.value, self.mark) = (value, mark) }
}

/// How one kind of value is read, and what it looks like: one place for decoder, schema and reference.
struct Codec<Value: Sendable>: Sendable {
  var shape: Shape
  /// Says what is wrong and gives `nil`, or gives the value.
  var read: @Sendable (YAMLNode, inout Decoding) -> Value?

  init(_ shape: Shape, _ read: @escaping @Sendable (YAMLNode, inout Decoding) -> Value?) {
    (self.shape, self.read) = (shape, read)
  }

  /// The same, for a field that may be absent.
  var optional: Codec<Value?> { Codec<Value?>(shape) { node, decoding in read(node, &decoding).map { .some($0) } } }

  var located: Codec<Located<Value>> {
    Codec<Located<Value>>(shape) { node, decoding in read(node, &decoding).map { Located($0, at: node.mark) } }
  }

  func map<Other: Sendable>(_ convert: @escaping @Sendable (Value) -> Other) -> Codec<Other> {
    Codec<Other>(shape) { node, decoding in read(node, &decoding).map(convert) }
  }

  var list: Codec<[Value]> {
    Codec<[Value]>(.list(shape)) { node, decoding in
      guard case .sequence(let items) = node.content else {
        if node.isNull { return [] }
        decoding.wrongType(node, expected: "a list")
        return nil
      }
      var result: [Value] = []
      result.reserveCapacity(items.count)
      for item in items { if let value = read(item, &decoding) { result.append(value) } }
      return result
    }
  }

  var dictionary: Codec<[String: Value]> {
    Codec<[String: Value]>(.map(shape)) { node, decoding in
      guard case .mapping(let members) = node.content else {
        if node.isNull { return [:] }
        decoding.wrongType(node, expected: "a mapping")
        return nil
      }
      var result: [String: Value] = [:]
      for member in members { if let value = read(member.value, &decoding) { result[member.key] = value } }
      return result
    }
  }
}

extension Codec where Value == String {
  static let text = Codec(.text) { node, decoding in
    guard case .scalar(let text, _) = node.content, !node.isNull else {
      decoding.wrongType(node, expected: "text")
      return nil
    }
    return text
  }

  /// Any single value, as it is written: `8080` is as good as `"8080"`.
  static let scalar = Codec(.scalar) { node, decoding in
    guard case .scalar(let text, _) = node.content, !node.isNull else {
      decoding.wrongType(node, expected: "a single value")
      return nil
    }
    return text
  }

  /// Text that says something.
  static let phrase = Codec(.text) { node, decoding in
    guard let text = text.read(node, &decoding) else { return nil }
    if text.allSatisfy(\.isWhitespace) || text.utf8.contains(0) {
      decoding.report(
        .badValue, at: node.mark, "this is empty, or holds a character with no meaning",
        "write it out, or leave it away")
      return nil
    }
    return text
  }

  static let path = Codec(.formatted("absolute path", pattern: "^/")) { node, decoding in
    guard let text = phrase.read(node, &decoding) else { return nil }
    guard let path = AbsolutePath.normalized(text) else {
      decoding.report(.badValue, at: node.mark, "'\(excerpt(text))' is not an absolute path", "begin it with '/'")
      return nil
    }
    return path
  }

  static let httpURL = Codec(.formatted("URL", pattern: "^https?://")) { node, decoding in
    guard let text = phrase.read(node, &decoding) else { return nil }
    let rest = text.hasPrefix("http://") ? text.dropFirst(7) : text.hasPrefix("https://") ? text.dropFirst(8) : ""
    let authority = rest.prefix { $0 != "/" && $0 != "?" && $0 != "#" }
    guard !authority.isEmpty, !text.contains(where: { $0.isWhitespace || $0.isNewline }) else {
      decoding.report(.badValue, at: node.mark, "this is not an http address", "write it as http://host:port/path")
      return nil
    }
    guard !authority.contains("@") else {
      decoding.report(
        .secretInline, at: node.mark, "the address holds a credential", "leave it out; checks send none")
      return nil
    }
    return text
  }
}

extension Codec where Value == Bool {
  static let boolean = Codec(.boolean) { node, decoding in
    if case .scalar(let text, isPlain: true) = node.content {
      switch text {
      case "true", "True", "TRUE": return true
      case "false", "False", "FALSE": return false
      default: break
      }
    }
    decoding.wrongType(node, expected: "true or false")
    return nil
  }
}

extension Codec where Value == Int {
  static func integer(_ range: ClosedRange<Int>) -> Codec {
    Codec(.integer(range)) { node, decoding in
      guard case .scalar(let text, isPlain: true) = node.content, let value = Int(text) else {
        decoding.wrongType(node, expected: "a whole number")
        return nil
      }
      guard range.contains(value) else {
        decoding.report(
          .badValue, at: node.mark, "\(value) is not in \(range.lowerBound) to \(range.upperBound)",
          "choose a number in there")
        return nil
      }
      return value
    }
  }
}

extension Codec where Value == Duration {
  static let duration = Codec(.duration) { node, decoding in
    guard case .scalar(let text, _) = node.content, !node.isNull else {
      decoding.wrongType(node, expected: "a duration such as 30s or 1h30m")
      return nil
    }
    guard let value = Duration(text: text) else {
      let remedy =
        Double(text) != nil
        ? "say the unit: \(excerpt(text))s, \(excerpt(text))m or \(excerpt(text))h"
        : "write it as 500ms, 30s, 15m, 1h30m or 2d"
      decoding.report(.badDuration, at: node.mark, "'\(excerpt(text))' is not a duration", remedy)
      return nil
    }
    return value
  }

  /// More than nothing.
  static let positiveDuration = Codec(.duration) { node, decoding in
    guard let value = duration.read(node, &decoding) else { return nil }
    guard value > .zero else {
      decoding.report(.badDuration, at: node.mark, "this must be longer than nothing", "write it as 500ms, 30s or 15m")
      return nil
    }
    return value
  }
}

extension Codec where Value == SecretReference {
  /// What is found instead of a reference is never repeated: it may be the secret.
  static let secret = Codec(.secret) { node, decoding in
    guard case .scalar(let text, _) = node.content, !node.isNull, let value = SecretReference(text) else {
      decoding.report(
        .secretInline, at: node.mark, "a secret is written here by reference, never itself",
        "write file:/path, env:NAME or command:program; if a real secret stood here, change it, for it was readable")
      return nil
    }
    return value
  }
}

extension Codec where Value: Name {
  static var name: Codec {
    Codec(.name) { node, decoding in
      guard case .scalar(let text, _) = node.content, !node.isNull else {
        decoding.wrongType(node, expected: "a name")
        return nil
      }
      guard let value = Value(text) else {
        decoding.report(
          .badName, at: node.mark, "'\(excerpt(text))' is not a name",
          "use 1 to 63 of a-z, 0-9 and '-', with no '-' at either end")
        return nil
      }
      return value
    }
  }
}

extension Codec where Value: RawRepresentable & CaseIterable, Value.RawValue == String {
  static var word: Codec {
    let words = Value.allCases.map(\.rawValue)
    return Codec(.oneOf(words)) { node, decoding in
      guard case .scalar(let text, _) = node.content, !node.isNull else {
        decoding.wrongType(node, expected: "one of \(words.joined(separator: ", "))")
        return nil
      }
      guard let value = Value(rawValue: text) else {
        let guess = nearest(text, in: words).map { "did you mean '\($0)'? " } ?? ""
        decoding.report(
          .badValue, at: node.mark, "'\(excerpt(text))' is not one of \(words.joined(separator: ", "))",
          guess.isEmpty ? "choose one of them" : guess.trimmed)
        return nil
      }
      return value
    }
  }
}

extension String {
  fileprivate var trimmed: String { String(drop { $0 == " " }.reversed().drop { $0 == " " }.reversed()) }
}
