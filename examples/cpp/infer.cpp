// Ask a node from C++:    g++ -std=c++17 -O2 -o infer examples/cpp/infer.cpp
//
//   infer HOST PORT MODEL INPUT TIMEOUT_US VALUE...            one request: FP32 values of one input
//   infer HOST PORT MODEL INPUT TIMEOUT_US,TIMEOUT_US VALUE... as many requests as timeouts, in one body
//
// A timeout of 0 leaves the deadline to the model's SLO. Without a node, to see what goes over the wire:
//
//   infer encode INPUT TIMEOUT_US,TIMEOUT_US VALUE...          the body of requests, in hex
//   infer decode HEX                                           what a reply says
#include <cstdio>
#include <cstdlib>
#include <sstream>

#include "symphony.hpp"

namespace {

std::vector<float> floats_of(int count, char** texts) {
  std::vector<float> values;
  for (int i = 0; i < count; ++i) values.push_back(std::strtof(texts[i], nullptr));
  return values;
}

void print(const symphony::Answer& answer) {
  if (!answer.error.empty()) {
    std::printf("%s: %s\n", answer.reason.c_str(), answer.error.c_str());
    return;
  }
  for (const auto& [name, tensor] : answer.outputs) {
    std::printf("%s", name.c_str());
    for (const float value : tensor.floats()) std::printf(" %g", static_cast<double>(value));
    std::printf("\n");
  }
}

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (std::size_t at = 0; at + 1 < hex.size(); at += 2)
    bytes += static_cast<char>(std::strtoul(hex.substr(at, 2).c_str(), nullptr, 16));
  return bytes;
}

std::vector<symphony::Request> requests_of(const std::string& input, const std::string& timeouts, int count,
                                           char** values) {
  std::vector<symphony::Request> requests;
  std::stringstream words(timeouts);
  for (std::string timeout; std::getline(words, timeout, ',');)
    requests.push_back({{{input, symphony::Tensor::of(floats_of(count, values))}},
                        std::strtoull(timeout.c_str(), nullptr, 10),
                        "request-" + std::to_string(requests.size())});
  return requests;
}

int run(int count, char** words) {
  const std::string mode = count > 1 ? words[1] : "";
  if (mode == "encode" && count > 4) {
    const auto requests = requests_of(words[2], words[3], count - 4, words + 4);
    const std::string body = requests.size() == 1 ? symphony::encode(requests[0]) : symphony::encode(requests);
    for (const unsigned char byte : body) std::printf("%02x", byte);
    std::printf("\n");
    return 0;
  }
  if (mode == "decode" && count == 3) {
    for (const symphony::Answer& answer : symphony::decode(from_hex(words[2]))) print(answer);
    return 0;
  }
  if (count < 7) {
    std::fprintf(stderr, "infer HOST PORT MODEL INPUT TIMEOUT_US[,TIMEOUT_US...] VALUE...\n");
    return 2;
  }
  const auto requests = requests_of(words[4], words[5], count - 6, words + 6);
  symphony::Client client(words[1], words[2]);
  if (requests.size() == 1) {
    print(client.infer(words[3], requests[0]));
    return 0;
  }
  for (const symphony::Answer& answer : client.infer(words[3], requests)) {
    std::printf("%s: ", answer.id.c_str());
    print(answer);
  }
  return 0;
}

}  // namespace

int main(int count, char** words) {
  try {
    return run(count, words);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
