import Core
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// What a repository works with: time, chance, threads, and how it packs.
package struct VaultSettings: Sendable {
  package var time: any Timekeeper = SystemTime()
  /// Must be fit for keys outside tests.
  package var randomness: any Randomness = SystemRandomness()
  package var pool = BlockingPool.shared
  package var owner = Owner.current
  package var compression = CompressionLevel.auto
  /// What new keys cost to derive.
  package var scrypt = ScryptParameters.standard
  /// A pack is closed when it has this many bytes.
  package var packTargetBytes = 16 << 20
  /// An index is written when it has this many blobs, or its oldest pack this age: what a crash can't take back.
  package var indexBlobs = 50_000
  package var indexInterval = Duration.seconds(600)
  /// Blobs are hashed, compressed and opened on as many threads at once.
  package var processors = max(1, sysconf(Int32(_SC_NPROCESSORS_ONLN)))
  /// Packs on their way at the same time; each holds its bytes in memory. On a disk of this machine two will do.
  package var uploads = 4
  /// Index files and packs read at the same time; three will do likewise.
  package var downloads = 4
  /// Blobs of a pack that are wanted are read together, up to this many bytes at a time.
  var readBytes = 8 << 20
  /// Other ways to an object that turns out damaged or missing, the best one first. Without any, damage is only reported.
  package var sources: [any RecoverySource] = []
  /// Whether what came from there is also put in its place; not for dry runs.
  package var mendsInPlace = true
  /// Called for each object that was brought back while something was read.
  package var onMended: @Sendable (MendedObject) -> Void = { _ in }

  package init() {}

  /// Side by side no more than is worth its memory: a disk is near, and what waits for a network waits long.
  func fitting(_ store: any ObjectStore) -> VaultSettings {
    var result = self
    if store.location.hasPrefix("local:") {
      (result.uploads, result.downloads) = (min(uploads, 2), min(downloads, 3))
      result.readBytes = min(readBytes, 4 << 20)
    }
    return result
  }
}
