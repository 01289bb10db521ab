/// A secret in memory. Prints as `***`, compares in constant time, and is wiped when the last owner lets go.
package final class Secret: Sendable, CustomStringConvertible, CustomDebugStringConvertible, CustomReflectable {
  private nonisolated(unsafe) let storage: UnsafeMutableRawBufferPointer

  package init(_ bytes: some Collection<UInt8>) {
    storage = .allocate(byteCount: max(1, bytes.count), alignment: 8)
    count = bytes.count
    storage.copyBytes(from: bytes)
  }

  package convenience init(_ text: String) { self.init(Array(text.utf8)) }

  /// What a file holds or a command prints, without blanks and newlines at its ends: as restic reads a password, so that
  /// both programs take the same from the same place.
  ///
  /// - Returns: `nil` if nothing is left.
  package convenience init?(trimming bytes: [UInt8]) {
    let isBlank: (UInt8) -> Bool = { $0 == 32 || (9...13).contains($0) }
    guard let start = bytes.firstIndex(where: { !isBlank($0) }), let end = bytes.lastIndex(where: { !isBlank($0) })
    else { return nil }
    self.init(bytes[start...end])
  }

  package let count: Int

  deinit {
    // `initializeMemory` would be optimised away as a dead store; a volatile write per byte is not.
    for index in storage.indices { secureZero(storage.baseAddress! + index) }
    storage.deallocate()
  }

  /// Lends the bytes for the length of a call. Don't keep or copy them.
  package func withBytes<T>(_ body: (UnsafeRawBufferPointer) throws -> T) rethrows -> T {
    try body(UnsafeRawBufferPointer(rebasing: storage[..<count]))
  }

  /// As text, for libraries that take nothing else.
  package func revealed() -> String { withBytes { String(decoding: $0, as: UTF8.self) } }

  package static func == (a: Secret, b: Secret) -> Bool {
    a.withBytes { x in b.withBytes { y in constantTimeEqual(Array(x), Array(y)) } }
  }

  package var description: String { "***" }
  package var debugDescription: String { "***" }
  package var customMirror: Mirror { Mirror(self, children: []) }
}

@inline(never)
private func secureZero(_ pointer: UnsafeMutableRawPointer) { pointer.storeBytes(of: 0, as: UInt8.self) }

/// Where a secret is read from at the moment it is used; never the secret itself.
///
/// Written `file:/run/secrets/pg`, `env:PGPASSWORD` or `command:pass show salvor`.
package enum SecretReference: Hashable, Sendable {
  /// The file's content, without blanks and newlines at its ends.
  case file(String)
  case environment(String)
  /// What a command prints, without blanks and newlines at its ends; run without a shell, words split at blanks, quotes
  /// respected.
  case command(String)

  package init?(_ text: some StringProtocol) {
    guard let colon = text.firstIndex(of: ":") else { return nil }
    let rest = String(text[text.index(after: colon)...])
    guard !rest.isEmpty else { return nil }
    switch text[..<colon] {
    case "file": self = .file(rest)
    case "env": self = .environment(rest)
    case "command": self = .command(rest)
    default: return nil
    }
  }
}

extension SecretReference: CustomStringConvertible, Codable {
  package var description: String {
    switch self {
    case .file(let path): "file:\(path)"
    case .environment(let name): "env:\(name)"
    case .command(let line): "command:\(line)"
    }
  }

  package init(from decoder: any Decoder) throws {
    let text = try decoder.singleValueContainer().decode(String.self)
    guard let value = SecretReference(text) else {
      // The text is not repeated: someone may have pasted the secret itself.
      throw DecodingError.dataCorrupted(
        .init(
          codingPath: decoder.codingPath, debugDescription: "not a secret reference (file:…, env:… or command:…)"))
    }
    self = value
  }

  package func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    try container.encode(description)
  }
}
