import Core

/// The keys everything in a repository is sealed with; what key files hold, wrapped by a password.
package final class MasterKey: Sendable {
  /// AES-256, 32 bytes.
  let encryption: Secret
  /// AES-128 for the one-time part of Poly1305, 16 bytes.
  let macK: Secret
  /// Poly1305's r, 16 bytes, stored unclamped.
  let macR: Secret

  init(encryption: Secret, macK: Secret, macR: Secret) {
    (self.encryption, self.macK, self.macR) = (encryption, macK, macR)
  }

  /// A new one, from chance fit for keys.
  convenience init(from randomness: any Randomness) {
    self.init(
      encryption: Secret(randomness.bytes(32)), macK: Secret(randomness.bytes(16)), macR: Secret(randomness.bytes(16)))
  }

  /// From 64 bytes as scrypt gives them.
  ///
  /// Source: restic, design document, "Keys, Encryption and MAC".
  convenience init(derived bytes: [UInt8]) {
    precondition(bytes.count == 64, "scrypt was asked for 64 bytes")
    self.init(encryption: Secret(bytes[..<32]), macK: Secret(bytes[32..<48]), macR: Secret(bytes[48...]))
  }

  /// The plaintext of a key file's `data`.
  func json() -> [UInt8] {
    var text = JSONOutput()
    text.raw(#"{"mac":{"k":""#)
    macK.withBytes { text.base64($0) }
    text.raw(#"","r":""#)
    macR.withBytes { text.base64($0) }
    text.raw(#""},"encrypt":""#)
    encryption.withBytes { text.base64($0) }
    text.raw(#""}"#)
    return text.bytes
  }

  /// - Throws: If a part is missing or has the wrong length.
  convenience init(json bytes: [UInt8]) throws(JSONFault) {
    var (k, r, e): ([UInt8]?, [UInt8]?, [UInt8]?) = (nil, nil, nil)
    try JSONScanner.scan(bytes) { (scanner) throws(JSONFault) in
      try scanner.object { (key, scanner) throws(JSONFault) in
        if key == "mac" {
          try scanner.object { (key, scanner) throws(JSONFault) in
            if key == "k" {
              k = try scanner.base64()
            } else if key == "r" {
              r = try scanner.base64()
            } else {
              try scanner.skip()
            }
          }
        } else if key == "encrypt" {
          e = try scanner.base64()
        } else {
          try scanner.skip()
        }
      }
    }
    guard var k, var r, var e, k.count == 16, r.count == 16, e.count == 32 else {
      throw JSONFault(offset: 0, reason: "the master key is incomplete")
    }
    defer {
      wipe(&k)
      wipe(&r)
      wipe(&e)
    }
    self.init(encryption: Secret(e), macK: Secret(k), macR: Secret(r))
  }
}
