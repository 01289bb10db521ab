import CLibcrypto
import CShim
import Core
import IO
import Synchronization

/// What turning a password into a key costs.
package struct ScryptParameters: Hashable, Sendable {
  package var n: Int
  package var r: Int
  package var p: Int

  /// What restic arrives at on a machine of 2022: 0.4 s and 32 MiB.
  package static let standard = ScryptParameters(n: 32_768, r: 8, p: 7)

  package init(n: Int, r: Int, p: Int) { (self.n, self.r, self.p) = (n, r, p) }

  /// Whether deriving takes no more than 512 MiB and about 15 s; a damaged or hostile key file may ask for anything.
  package var isAffordable: Bool {
    guard n > 1, n & (n - 1) == 0, n <= 1 << 24, (1...1024).contains(r), (1...1024).contains(p) else { return false }
    return 128 * n * r <= 512 << 20 && n * r * p <= 1 << 26
  }
}

/// Derives the key that wraps the master key. Blocks for as long as ``ScryptParameters`` make it.
///
/// Where the processor can, lanes are computed two at a time on as many threads as there are pairs or `threads`, each with
/// 128 · *N* · *r* bytes; otherwise libcrypto does one after another.
///
/// Source: RFC 7914.
func scrypt(
  _ password: Secret, salt: [UInt8], _ parameters: ScryptParameters, threads: Int = 2,
  inPairs: Bool = salvor_scrypt_pairs() != 0
) throws(VaultError) -> MasterKey {
  guard parameters.isAffordable else {
    throw .cryptography("scrypt with N=\(parameters.n) r=\(parameters.r) p=\(parameters.p)")
  }
  var derived = [UInt8](repeating: 0, count: 64)
  defer { wipe(&derived) }
  if inPairs, 128 * parameters.n * parameters.r <= ScryptLanes.limitBytes {
    try ScryptLanes(parameters).derive(password, salt, threads: threads, into: &derived)
  } else {
    let memory = UInt64(128 * parameters.r * (parameters.n + parameters.p + 2)) + (1 << 20)
    let done = password.withBytes { secret in
      salt.withUnsafeBufferPointer { salt in
        derived.withUnsafeMutableBufferPointer { output in
          EVP_PBE_scrypt(
            secret.bindMemory(to: CChar.self).baseAddress, secret.count, salt.baseAddress, salt.count,
            UInt64(parameters.n), UInt64(parameters.r), UInt64(parameters.p), memory, output.baseAddress, output.count)
        }
      }
    }
    guard done == 1 else { throw .cryptography("EVP_PBE_scrypt") }
  }
  return MasterKey(derived: derived)
}

/// scrypt with its lanes side by side.
private struct ScryptLanes {
  /// More memory than this for a thread, and one lane after another is better.
  static let limitBytes = 128 << 20

  let parameters: ScryptParameters
  private var laneBytes: Int { 128 * parameters.r }
  private var memoryBytes: Int { 128 * parameters.r * parameters.n + 768 * parameters.r }

  init(_ parameters: ScryptParameters) { self.parameters = parameters }

  func derive(
    _ password: Secret, _ salt: [UInt8], threads: Int, into derived: inout [UInt8]
  ) throws(VaultError) {
    // A pair has two lanes: an odd one out is computed beside one that nobody reads.
    let pairs = (parameters.p + 1) / 2
    var lanes = [UInt8](repeating: 0, count: 2 * pairs * laneBytes)
    defer { wipe(&lanes) }
    let used = parameters.p * laneBytes
    try stretch(password, salt, into: &lanes, used)
    let next = Atomic(0)
    let isShort = Atomic(false)
    lanes.withUnsafeMutableBytes { raw in
      nonisolated(unsafe) let bytes = raw.baseAddress!.assumingMemoryBound(to: UInt8.self)
      BlockingPool.sideBySide(min(threads, pairs)) {
        guard let memory = salvor_allocate_pages(memoryBytes) else { return isShort.store(true, ordering: .relaxed) }
        while case let pair = next.wrappingAdd(1, ordering: .relaxed).oldValue, pair < pairs {
          let first = bytes + 2 * pair * laneBytes
          salvor_scrypt_mix_two(first, first + laneBytes, parameters.n, parameters.r, memory)
        }
        OPENSSL_cleanse(memory + (memoryBytes - 768 * parameters.r), 768 * parameters.r)
        salvor_free_pages(memory, memoryBytes)
      }
    }
    if isShort.load(ordering: .relaxed) { throw .cryptography("no memory for scrypt") }
    lanes.removeLast(lanes.count - used)
    try stretch(password, lanes, into: &derived, derived.count)
  }

  /// PBKDF2 with HMAC-SHA-256 and one round.
  private func stretch(
    _ password: Secret, _ salt: [UInt8], into output: inout [UInt8], _ count: Int
  ) throws(VaultError) {
    let done = password.withBytes { secret in
      PKCS5_PBKDF2_HMAC(
        secret.bindMemory(to: CChar.self).baseAddress, Int32(secret.count), salt, Int32(salt.count), 1, EVP_sha256(),
        Int32(count), &output)
    }
    guard done == 1 else { throw .cryptography("PKCS5_PBKDF2_HMAC") }
  }
}
