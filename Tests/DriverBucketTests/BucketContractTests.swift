import DriverContract
import Testing

/// The promises of a store that nobody holds, on a real server, in a bucket without versions and in one with them.
///
/// Two of them are no promises of a bucket: it doesn't say how much room it has, and it lies below no directory. That a key which
/// may not write is found before a restore is tested on Ceph.
@Suite("buckets keep the driver contract") struct BucketContractTests {
  let contract = DriverContract<PlainFixture>()
  let versioned = DriverContract<VersionedFixture>()

  @Test(.timeLimit(.minutes(10))) func traitsAreTold() async throws {
    try await contract.traitsAreTold()
    try await versioned.traitsAreTold()
  }
  @Test(.timeLimit(.minutes(10))) func captureIsWhole() async throws {
    try await contract.captureIsWhole()
    try await versioned.captureIsWhole()
  }
  @Test(.timeLimit(.minutes(10))) func sinkErrorsSurface() async throws {
    try await contract.sinkErrorsSurface()
    try await versioned.sinkErrorsSurface()
  }
  @Test(.timeLimit(.minutes(10))) func restoreBesideIsProved() async throws {
    try await contract.restoreBesideIsProved()
    try await versioned.restoreBesideIsProved()
  }
  @Test(.timeLimit(.minutes(10))) func damageIsFound() async throws { try await contract.damageIsFound() }
  @Test(.timeLimit(.minutes(10))) func swapInAndOut() async throws {
    try await contract.swapInAndOut()
    try await versioned.swapInAndOut()
  }
  @Test(.timeLimit(.minutes(10))) func swapReplays() async throws {
    try await contract.swapReplays()
    try await versioned.swapReplays()
  }
  @Test(.timeLimit(.minutes(10))) func lostStateComesBack() async throws {
    try await contract.lostStateComesBack()
    try await versioned.lostStateComesBack()
  }
  @Test(.timeLimit(.minutes(10))) func queriesOnlyRead() async throws {
    try await contract.queriesOnlyRead(
      reading: "LIST record/", writing: ["PUT record/1 x", "DELETE record/1", "COPY record/1 record/2", "GET", ""])
  }
}
