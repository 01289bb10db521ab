import CLibcrypto
import Core

/// Seals and opens with one master key: AES-256-CTR, then Poly1305-AES over the ciphertext.
///
/// Layout: 16 bytes IV, ciphertext, 16 bytes tag. Contexts are set up once and used again. Not thread-safe; a
/// ``CodecPool`` hands each to one caller at a time.
///
/// Source: restic, design document, "Keys, Encryption and MAC"; D. J. Bernstein, "The Poly1305-AES
/// message-authentication code", 2005.
final class Cipher {
  static let overheadBytes = 32

  private let counter: OpaquePointer
  private let block: OpaquePointer
  private let mac: OpaquePointer
  /// Poly1305's one-time key: r, then AES-128_k(IV).
  private var oneTimeKey: [UInt8]

  init(_ key: MasterKey) throws(VaultError) {
    guard let counter = EVP_CIPHER_CTX_new() else { throw .cryptography("EVP_CIPHER_CTX_new") }
    guard let block = EVP_CIPHER_CTX_new() else {
      EVP_CIPHER_CTX_free(counter)
      throw .cryptography("EVP_CIPHER_CTX_new")
    }
    let algorithm = EVP_MAC_fetch(nil, "POLY1305", nil)
    defer { EVP_MAC_free(algorithm) }
    guard let algorithm, let mac = EVP_MAC_CTX_new(algorithm) else {
      EVP_CIPHER_CTX_free(counter)
      EVP_CIPHER_CTX_free(block)
      throw .cryptography("EVP_MAC_fetch POLY1305")
    }
    (self.counter, self.block, self.mac) = (counter, block, mac)
    oneTimeKey = key.macR.withBytes { Array($0) } + [UInt8](repeating: 0, count: 16)
    let ready =
      key.encryption.withBytes { e in
        EVP_EncryptInit_ex2(counter, EVP_aes_256_ctr(), e.bindMemory(to: UInt8.self).baseAddress, nil, nil) == 1
      }
      && key.macK.withBytes { k in
        EVP_EncryptInit_ex2(block, EVP_aes_128_ecb(), k.bindMemory(to: UInt8.self).baseAddress, nil, nil) == 1
      }
    EVP_CIPHER_CTX_set_padding(block, 0)
    guard ready else { throw .cryptography("EVP_EncryptInit_ex2") }
  }

  deinit {
    wipe(&oneTimeKey)
    EVP_CIPHER_CTX_free(counter)
    EVP_CIPHER_CTX_free(block)
    EVP_MAC_CTX_free(mac)
  }

  /// - Parameter iv: 16 bytes that were never used with this key.
  func seal(_ plaintext: UnsafeRawBufferPointer, iv: [UInt8]) throws(VaultError) -> [UInt8] {
    let total = plaintext.count + Self.overheadBytes
    var sealed = true
    let result = [UInt8](unsafeUninitializedCapacity: total) { buffer, count in
      sealed = seal(plaintext, iv: iv, into: UnsafeMutableRawBufferPointer(start: buffer.baseAddress, count: total))
      count = sealed ? total : 0
    }
    guard sealed else { throw .cryptography("seal") }
    return result
  }

  /// - Parameters:
  ///   - plaintext: May lie in `target`, 16 bytes from its start.
  ///   - target: 32 bytes more than the plaintext.
  /// - Returns: Whether libcrypto did it.
  func seal(
    _ plaintext: UnsafeRawBufferPointer, iv: [UInt8], into target: UnsafeMutableRawBufferPointer
  ) -> Bool {
    precondition(iv.count == 16, "AES-CTR takes 16 bytes of IV")
    precondition(target.count == plaintext.count + Self.overheadBytes, "a sealed blob has 32 bytes more")
    target.copyBytes(from: iv)
    let first = UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(target)[..<16])
    let body = UnsafeMutableRawBufferPointer(rebasing: target[16..<target.count - 16])
    let tag = UnsafeMutableRawBufferPointer(rebasing: target[(target.count - 16)...])
    return crypt(plaintext, into: body, iv: first) && authenticate(UnsafeRawBufferPointer(body), iv: first, tag: tag)
  }

  /// Verifies, then decrypts.
  ///
  /// - Returns: `nil` if the bytes are not what was sealed with this key.
  func open(_ sealed: UnsafeRawBufferPointer) throws(VaultError) -> [UInt8]? {
    guard sealed.count >= Self.overheadBytes else { return nil }
    var outcome = Result<Bool, VaultError>.success(false)
    let result = [UInt8](unsafeUninitializedCapacity: sealed.count - Self.overheadBytes) { buffer, count in
      let target = UnsafeMutableRawBufferPointer(
        start: buffer.baseAddress, count: sealed.count - Self.overheadBytes)
      do throws(VaultError) {
        outcome = .success(try open(sealed, into: target))
        count = target.count
      } catch {
        outcome = .failure(error)
        count = 0
      }
    }
    return try outcome.get() ? result : nil
  }

  /// - Parameter target: 32 bytes less than `sealed`; undefined unless this returns `true`.
  /// - Returns: Whether the bytes are what was sealed with this key.
  func open(
    _ sealed: UnsafeRawBufferPointer, into target: UnsafeMutableRawBufferPointer
  ) throws(VaultError) -> Bool {
    precondition(sealed.count == target.count + Self.overheadBytes, "a sealed blob has 32 bytes more")
    guard try isGenuine(sealed) else { return false }
    let iv = UnsafeRawBufferPointer(rebasing: sealed[..<16])
    let body = UnsafeRawBufferPointer(rebasing: sealed[16..<sealed.count - 16])
    guard crypt(body, into: target, iv: iv) else { throw .cryptography("EVP_EncryptUpdate") }
    return true
  }

  /// Whether the tag is right; nothing is decrypted.
  func isGenuine(_ sealed: UnsafeRawBufferPointer) throws(VaultError) -> Bool {
    guard sealed.count >= Self.overheadBytes else { return false }
    let iv = UnsafeRawBufferPointer(rebasing: sealed[..<16])
    let body = UnsafeRawBufferPointer(rebasing: sealed[16..<sealed.count - 16])
    let genuine = withUnsafeTemporaryAllocation(byteCount: 16, alignment: 8) { tag -> Bool? in
      guard authenticate(body, iv: iv, tag: tag) else { return nil }
      return CRYPTO_memcmp(tag.baseAddress, sealed.baseAddress! + sealed.count - 16, 16) == 0
    }
    guard let genuine else { throw .cryptography("EVP_MAC") }
    return genuine
  }

  /// CTR mode is its own inverse.
  private func crypt(
    _ input: UnsafeRawBufferPointer, into output: UnsafeMutableRawBufferPointer, iv: UnsafeRawBufferPointer
  ) -> Bool {
    guard EVP_EncryptInit_ex2(counter, nil, nil, iv.bindMemory(to: UInt8.self).baseAddress, nil) == 1 else {
      return false
    }
    var offset = 0
    while offset < input.count {
      let size = min(input.count - offset, 1 << 30)
      var written: Int32 = 0
      guard
        EVP_EncryptUpdate(
          counter, (output.baseAddress! + offset).assumingMemoryBound(to: UInt8.self), &written,
          (input.baseAddress! + offset).assumingMemoryBound(to: UInt8.self), Int32(size)) == 1, Int(written) == size
      else { return false }
      offset += size
    }
    return true
  }

  private func authenticate(
    _ ciphertext: UnsafeRawBufferPointer, iv: UnsafeRawBufferPointer, tag: UnsafeMutableRawBufferPointer
  ) -> Bool {
    oneTimeKey.withUnsafeMutableBytes { key in
      var written: Int32 = 0
      guard
        EVP_EncryptUpdate(
          block, (key.baseAddress! + 16).assumingMemoryBound(to: UInt8.self), &written,
          iv.baseAddress!.assumingMemoryBound(to: UInt8.self), 16) == 1, written == 16
      else { return false }
      var length = 0
      return EVP_MAC_init(mac, key.baseAddress!.assumingMemoryBound(to: UInt8.self), 32, nil) == 1
        && EVP_MAC_update(mac, ciphertext.baseAddress?.assumingMemoryBound(to: UInt8.self), ciphertext.count) == 1
        && EVP_MAC_final(mac, tag.baseAddress!.assumingMemoryBound(to: UInt8.self), &length, 16) == 1 && length == 16
    }
  }
}

/// Overwrites what was secret, in a way no optimiser takes for useless.
func wipe(_ bytes: inout [UInt8]) { bytes.withUnsafeMutableBytes { OPENSSL_cleanse($0.baseAddress, $0.count) } }
