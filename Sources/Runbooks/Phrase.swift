import Core

/// A line of text of which the author's part and everybody else's are told apart: what is interpolated is never markup.
package struct Phrase: Sendable, Equatable, ExpressibleByStringInterpolation {
  package enum Span: Sendable, Equatable {
    case plain(String)
    case code(String)
    case strong(String)
    /// To a step, section or file of the same edition.
    case link(String, to: String)
  }

  package var spans: [Span]

  package init(_ spans: [Span]) { self.spans = spans }
  package init(_ text: String) { spans = [.plain(text)] }
  package init(stringLiteral value: String) { spans = [.plain(value)] }
  package init(stringInterpolation: Interpolation) { spans = stringInterpolation.spans }

  package struct Interpolation: StringInterpolationProtocol {
    var spans: [Span] = []

    package init(literalCapacity: Int, interpolationCount: Int) {}
    package mutating func appendLiteral(_ literal: String) {
      if !literal.isEmpty { spans.append(.plain(literal)) }
    }
    package mutating func appendInterpolation(_ text: String) { spans.append(.plain(text)) }
    package mutating func appendInterpolation(_ number: Int) { spans.append(.plain("\(number)")) }
    package mutating func appendInterpolation(_ phrase: Phrase) { spans += phrase.spans }
    package mutating func appendInterpolation(code text: String) { spans.append(.code(text)) }
    package mutating func appendInterpolation(strong text: String) { spans.append(.strong(text)) }
    package mutating func appendInterpolation(link text: String, to target: String) {
      spans.append(.link(text, to: target))
    }
  }

  package static func + (a: Phrase, b: Phrase) -> Phrase { Phrase(a.spans + b.spans) }

  /// Without any mark.
  package var plain: String {
    spans.map { span in
      switch span {
      case .plain(let text), .code(let text), .strong(let text), .link(let text, _): text
      }
    }.joined()
  }

  package var isEmpty: Bool { plain.isEmpty }
}

extension Sequence<Phrase> {
  package func joined(separator: Phrase) -> Phrase {
    var result = Phrase([])
    for (index, phrase) in enumerated() {
      if index > 0 { result = result + separator }
      result = result + phrase
    }
    return result
  }
}

extension Sequence<String> {
  /// `a`, `b` and `c`, each as code.
  package var listed: Phrase { map { Phrase([.code($0)]) }.joined(separator: ", ") }
}
