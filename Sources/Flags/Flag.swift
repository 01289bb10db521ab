import Core

/// A name flags are asked by: 1 to 200 of letters, digits, `-`, `_`, `.`, `:` and `/`.
package struct FlagKey: Hashable, Sendable, Comparable, CustomStringConvertible {
  package let text: String

  package init?(_ text: String) {
    guard (1...200).contains(text.utf8.count), !text.hasPrefix("/"), !text.contains(".."),
      text.utf8.allSatisfy({ byte in
        (97...122).contains(byte) || (65...90).contains(byte) || (48...57).contains(byte) || "-_.:/".utf8.contains(byte)
      })
    else { return nil }
    self.text = text
  }

  package var description: String { text }
  package static func < (a: FlagKey, b: FlagKey) -> Bool { a.text < b.text }
}

/// Why a value is what it is.
///
/// Source: OpenFeature specification, 1.4 and "Types and Data Structures".
package enum FlagReason: String, Sendable, Codable {
  case standing = "STATIC"
  case fallback = "DEFAULT"
  case targeted = "TARGETING_MATCH"
  case split = "SPLIT"
  case cached = "CACHED"
  case disabled = "DISABLED"
  case unknown = "UNKNOWN"
  case stale = "STALE"
  case error = "ERROR"
}

/// Why there is no value.
package enum FlagErrorCode: String, Sendable, Codable {
  case notReady = "PROVIDER_NOT_READY"
  case notFound = "FLAG_NOT_FOUND"
  case parse = "PARSE_ERROR"
  case type = "TYPE_MISMATCH"
  case targetingKey = "TARGETING_KEY_MISSING"
  case context = "INVALID_CONTEXT"
  case fatal = "PROVIDER_FATAL"
  case general = "GENERAL"
}

/// What a flag says, or why it says nothing; then the value is the caller's default.
package struct FlagAnswer: Sendable, Equatable, Codable {
  package var key: String
  package var value: JSONValue
  package var reason: FlagReason
  package var variant: String?
  package var errorCode: FlagErrorCode?
  package var errorMessage: String?

  package init(
    key: FlagKey, value: JSONValue, reason: FlagReason, variant: String? = nil, errorCode: FlagErrorCode? = nil,
    errorMessage: String? = nil
  ) {
    (self.key, self.value, self.reason, self.variant) = (key.text, value, reason, variant)
    (self.errorCode, self.errorMessage) = (errorCode, errorMessage)
  }

  static func failure(_ key: FlagKey, _ code: FlagErrorCode, _ message: String) -> FlagAnswer {
    FlagAnswer(key: key, value: .null, reason: .error, errorCode: code, errorMessage: message)
  }

  /// The source itself gave the value.
  package var isGiven: Bool { errorCode == nil && reason != .error && reason != .disabled && reason != .fallback }

  /// For a record of what was true: the value, or that there was none.
  package var text: String {
    if let errorCode { return "error: \(errorCode.rawValue)" }
    switch value {
    case .string(let text): return text
    case .bool(let value): return "\(value)"
    default: return (try? CanonicalJSON.encode(value)).map { String(decoding: $0, as: UTF8.self) } ?? "?"
    }
  }
}

/// Where flags come from. Never throws: that nothing could be found out is an answer, too.
package protocol FlagSource: Sendable {
  func answer(_ key: FlagKey, _ context: [String: String]) async -> FlagAnswer

  /// All that there are, by key; `nil` and why if they can't be listed.
  func all(_ context: [String: String]) async throws(FlagError) -> [FlagAnswer]
}

/// Asks for values of one type, with a default for when there is none.
package struct FlagClient: Sendable {
  package let source: any FlagSource
  /// Goes with every question; `targetingKey` says who asks.
  package var context: [String: String]

  package init(_ source: any FlagSource, context: [String: String] = ["targetingKey": "salvor"]) {
    (self.source, self.context) = (source, context)
  }

  package func boolean(_ key: FlagKey, default fallback: Bool) async -> FlagAnswer {
    await typed(key, .bool(fallback)) { $0.bool != nil }
  }

  package func string(_ key: FlagKey, default fallback: String) async -> FlagAnswer {
    await typed(key, .string(fallback)) { $0.string != nil }
  }

  package func number(_ key: FlagKey, default fallback: Double) async -> FlagAnswer {
    await typed(key, .number(fallback)) { $0.number != nil }
  }

  package func value(_ key: FlagKey) async -> FlagAnswer { await source.answer(key, context) }

  private func typed(_ key: FlagKey, _ fallback: JSONValue, _ fits: (JSONValue) -> Bool) async -> FlagAnswer {
    var answer = await source.answer(key, context)
    if answer.errorCode == nil, answer.reason == .disabled || answer.reason == .fallback, answer.value == .null {
      answer.value = fallback
      return answer
    }
    if answer.errorCode == nil, !fits(answer.value) {
      answer = .failure(key, .type, "its value is \(answer.text)")
    }
    if answer.errorCode != nil { (answer.value, answer.reason, answer.variant) = (fallback, .error, nil) }
    return answer
  }

  /// A kill switch: only a value of `true` that the source itself gave allows; an error, a default, a flag that is switched off
  /// or of another type denies.
  package func allows(_ key: FlagKey) async -> (isAllowed: Bool, answer: FlagAnswer) {
    let answer = await boolean(key, default: false)
    return (answer.isGiven && answer.value == .bool(true), answer)
  }
}

/// Why flags can't be asked for at all.
package enum FlagError: Failure, Equatable {
  case badSource(String)
  case badKey(String)
  case unavailable(String, String)
  case missing(String, FlagErrorCode, String)

  package var report: Report {
    switch self {
    case .badSource(let text):
      Report("FLAG-101", "'\(text)' is no source of flags")
        .remedy("give a file's path, or http://host:port of an OFREP service")
    case .badKey(let text):
      Report("FLAG-102", "'\(text)' can't be a flag's key")
        .remedy("use 1 to 200 letters, digits, '-', '_', '.', ':' and '/'")
    case .unavailable(let source, let why):
      Report("FLAG-201", "flags can't be read from \(source): \(why)", retry: .afterBackoff)
        .state("a kill switch denies meanwhile").remedy("see whether it is there and can be reached")
    case .missing(let key, let code, let why):
      Report("FLAG-202", "flag \(key) has no value: \(code.rawValue): \(why)")
        .remedy("`salvor flag list` shows what there is")
    }
  }
}
