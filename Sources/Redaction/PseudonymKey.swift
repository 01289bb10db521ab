import Core
import Crypto

/// The key of a policy: the same key gives the same pseudonyms, and without it nobody gets back.
package struct PseudonymKey: Sendable {
  private let key: SymmetricKey

  /// - Throws: ``RedactionError/weakKey(bytes:)``
  package init(_ secret: Secret) throws(RedactionError) {
    guard secret.count >= 16 else { throw .weakKey(bytes: secret.count) }
    key = secret.withBytes { SymmetricKey(data: Array($0)) }
  }

  private init(_ key: SymmetricKey) { self.key = key }

  /// A key of its own for each purpose, so that what is known of one domain says nothing about another.
  package func derived(for purpose: String) -> PseudonymKey {
    PseudonymKey(SymmetricKey(data: code(Array("salvor redaction 1\n\(purpose)".utf8))))
  }

  /// HMAC-SHA-256: 32 bytes.
  package func code(_ message: [UInt8]) -> [UInt8] {
    Array(HMAC<SHA256>.authenticationCode(for: message, using: key))
  }
}
