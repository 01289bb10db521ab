import Core
import Crypto
import Foundation

/// Whom a repository's password can be sealed to: an X-Wing public key (ML-KEM-768 with X25519), 1216 bytes.
///
/// Source: draft-connolly-cfrg-xwing-kem; swift-crypto, `XWingMLKEM768X25519`.
package struct EscrowPublicKey: Hashable, Sendable {
  package static let sizeBytes = 1216
  private static let mark = "salvor-escrow-1:"

  package let bytes: [UInt8]

  /// The SHA-256 of the key: what it is known by.
  package var id: Core.Digest { Core.Digest.of(bytes) }

  /// `salvor-escrow-1:` and the key in base64, on one line.
  package var text: String {
    var encoded: [UInt8] = []
    bytes.withUnsafeBytes { Base64Text.encode($0, into: &encoded) }
    return Self.mark + String(decoding: encoded, as: UTF8.self)
  }

  init(bytes: [UInt8]) throws(VaultError) {
    guard bytes.count == Self.sizeBytes, (try? XWingMLKEM768X25519.PublicKey(rawRepresentation: bytes)) != nil else {
      throw .escrowKey("it is no X-Wing public key")
    }
    self.bytes = bytes
  }

  /// Blanks at the ends don't count.
  package init(text: String) throws(VaultError) {
    let line = text.trimmingCharacters(in: .whitespacesAndNewlines)
    guard line.utf8.count < 4096, line.hasPrefix(Self.mark),
      let bytes = Array(line.utf8.dropFirst(Self.mark.utf8.count)).withUnsafeBytes({ Base64Text.decode($0) })
    else { throw .escrowKey("it does not begin with \(Self.mark), or is no base64") }
    try self.init(bytes: bytes)
  }
}

/// The other half: opens what was sealed to its public key.
package final class EscrowPrivateKey: Sendable {
  private static let mark = "SALVOR-ESCROW-PRIVATE-KEY-1:"

  private let key: XWingMLKEM768X25519.PrivateKey
  package let publicKey: EscrowPublicKey

  private init(_ key: XWingMLKEM768X25519.PrivateKey) throws(VaultError) {
    self.key = key
    publicKey = try EscrowPublicKey(bytes: Array(key.publicKey.rawRepresentation))
  }

  /// A new one, from the system's own chance.
  package convenience init() throws(VaultError) {
    do { try self.init(XWingMLKEM768X25519.PrivateKey.generate()) } catch {
      throw .cryptography("X-Wing key generation")
    }
  }

  /// What its file holds: a mark, and seed and hash of the public key in base64, on one line.
  package var fileContent: Secret {
    var encoded = Array(Self.mark.utf8)
    var raw = Array(key.integrityCheckedRepresentation)
    raw.withUnsafeBytes { Base64Text.encode($0, into: &encoded) }
    wipe(&raw)
    encoded.append(10)
    defer { wipe(&encoded) }
    return Secret(encoded)
  }

  package convenience init(fileContent bytes: [UInt8]) throws(VaultError) {
    let line = String(decoding: bytes.prefix(4096), as: UTF8.self).trimmingCharacters(in: .whitespacesAndNewlines)
    guard line.hasPrefix(Self.mark),
      let raw = Array(line.utf8.dropFirst(Self.mark.utf8.count)).withUnsafeBytes({ Base64Text.decode($0) }),
      raw.count == 64, let key = try? XWingMLKEM768X25519.PrivateKey(integrityCheckedRepresentation: raw)
    else { throw .escrowKey("it holds no X-Wing private key of Salvor's, or is damaged") }
    try self.init(key)
  }

  fileprivate func open(_ sealed: [UInt8], encapsulated: [UInt8], authenticating header: [UInt8]) -> [UInt8]? {
    do {
      var recipient = try HPKE.Recipient(
        privateKey: key, ciphersuite: .XWingMLKEM768X25519_SHA256_AES_GCM_256, info: EscrowFile.info,
        encapsulatedKey: Data(encapsulated))
      return Array(try recipient.open(sealed, authenticating: header))
    } catch { return nil }
  }
}

extension EscrowFile {
  fileprivate static let info = Data("salvor.dev/escrow/v1".utf8)

  /// Seals a password; its length is hidden up to a multiple of 128.
  static func seal(
    _ password: Secret, to recipient: EscrowPublicKey, repository: Core.Digest, key: Core.Digest, label: String,
    created: Timestamp
  ) throws(VaultError) -> EscrowFile {
    guard password.count <= limitPasswordBytes else { throw .setting("a password this long can't be escrowed") }
    guard label.utf8.count <= limitLabelBytes else {
      throw .setting("the label has more than \(limitLabelBytes) bytes")
    }
    var plain = [UInt8(password.count >> 8), UInt8(password.count & 255)]
    password.withBytes { plain.append(contentsOf: $0) }
    plain += [UInt8](repeating: 0, count: (128 - plain.count % 128) % 128)
    defer { wipe(&plain) }
    var file = EscrowFile(
      repository: repository, key: key, recipient: recipient.id, label: label, created: created.description)
    do {
      var sender = try HPKE.Sender(
        recipientKey: try XWingMLKEM768X25519.PublicKey(rawRepresentation: recipient.bytes),
        ciphersuite: .XWingMLKEM768X25519_SHA256_AES_GCM_256, info: info)
      file.encapsulated = Array(sender.encapsulatedKey)
      file.sealed = Array(try sender.seal(plain, authenticating: file.header))
    } catch { throw .cryptography("HPKE with X-Wing") }
    return file
  }

  /// - Returns: `nil` if it was sealed to somebody else, or changed.
  func open(with key: EscrowPrivateKey) -> Secret? {
    guard key.publicKey.id == recipient,
      var plain = key.open(sealed, encapsulated: encapsulated, authenticating: header), plain.count >= 2
    else { return nil }
    defer { wipe(&plain) }
    let count = Int(plain[0]) << 8 | Int(plain[1])
    guard count > 0, count <= plain.count - 2 else { return nil }
    return Secret(plain[2..<2 + count])
  }
}
